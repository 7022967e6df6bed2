"""Uncertainty of pseudo labels: how far a net is from its teacher, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlt.modeling.layers import full_precision


@full_precision
def uncertainty(logits: Sequence[Tensor], teacher_logits: Sequence[Tensor]) -> Tensor:
    """u_i = KL(softmax(teacher's logits) || softmax(own logits)), over several logits side by side.

    Its mean is a loss of its own: it keeps the weights `reliability` from falling to 0.
    Source: Zheng et al., UNRN, AAAI 2021, which puts an auxiliary classifier's logits beside similarities to source
    prototypes.

    Args:
        logits: tensors [B, K_j], taken as one [B, sum K_j].
        teacher_logits: tensors [B, K_j]; no gradient flows into them.

    Returns:
        [B], >= 0, with gradient

    Raises:
        ValueError: the shapes differ, or there is no tensor.
    """
    shapes = [[list(z.shape) for z in parts] for parts in (logits, teacher_logits)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(f"uncertainty: student and teacher logits must have the same shapes, got {shapes}")
    ours = torch.cat(list(logits), dim=1).log_softmax(1)
    theirs = torch.cat(list(teacher_logits), dim=1).detach().log_softmax(1)
    return (theirs.exp() * (theirs - ours)).sum(1)


def reliability(uncertain: Tensor) -> Tensor:
    """Weights exp(-u) in (0, 1] for the rows of CrossEntropyLoss and TripletLoss; the gradient flows through them.

    Args:
        uncertain: [B], see `uncertainty`.
    """
    return torch.exp(-uncertain)
