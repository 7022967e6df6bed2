"""NaN and infinity end a run before they reach a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def check_finite(scalars: Mapping[str, Tensor | float], step: int) -> None:
    """Stop a run that has diverged at the first scalar that is no number.

    Args:
        scalars: name -> a loss, or the sum of a weight.
        step: for the message.

    Raises:
        FloatingPointError: names the scalar and what to try.
    """
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {float(value)} at step {step}. The last checkpoint is from before it. Try a lower "
                "SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True, or SOLVER.AMP.ENABLED False, with --resume."
            )
