from __future__ import annotations

import pytest
import torch

from mlt.utils.finite import check_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_culprit_of_a_diverged_run_is_named(value):
    losses = {"loss_cls": torch.tensor(1.0), "loss_instance": torch.tensor(value)}
    with pytest.raises(
        FloatingPointError, match=rf"loss_instance is {value} at step 7.*SOLVER\.BASE_LR.*with --resume"
    ):
        check_finite(losses, 7)
    check_finite({"loss_cls": torch.tensor(1.0)}, 7)
