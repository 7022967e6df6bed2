"""Soft identification loss: one net's class probabilities are another's targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses.mutual import MutualLoss
from mlt.registry import LOSSES


@LOSSES.register()
class SoftCrossEntropyLoss(MutualLoss):
    """Mean over classifiers of the mean over rows of -sum_k softmax(z')_k log softmax(z)_k, z' the teacher's logits.

    Rows need no label. Source: Ge et al., MMT, ICLR 2020, eq. 6.

    Args:
        scale: weight of the loss.
    """

    key = "loss_soft_cls"
    reads = "logits"

    @configurable
    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.LOSSES.SOFT_CE.

        Args:
            cfg: the whole tree.
        """
        return {"scale": cfg.MODEL.LOSSES.SOFT_CE.SCALE}

    def between_nets(
        self, rows: Tensor | Sequence[Tensor], teacher_rows: Tensor | Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """The loss; rows are compared one by one, so other processes' play no part.

        Args:
            rows: logits [B, K], or G tensors [B, K_g].
            teacher_rows: the teacher's.
            targets: not read.
        """
        return self(rows, teacher_rows)

    @full_precision
    def forward(self, logits: Tensor | Sequence[Tensor], teacher_logits: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss.

        Args:
            logits: [B, K], or G tensors [B, K_g].
            teacher_logits: of the same shapes; no gradient flows into them.

        Raises:
            ValueError: the shapes differ.
        """
        ours, theirs = ([z] if isinstance(z, Tensor) else list(z) for z in (logits, teacher_logits))
        shapes = [[list(z.shape) for z in groups] for groups in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"SoftCrossEntropyLoss: student and teacher must have the same classes, got logits {shapes[0]} and "
                f"{shapes[1]}; reset the classifiers of all nets together"
            )
        losses = [_mean_over_rows(z, t.detach()) for z, t in zip(ours, theirs, strict=True)]
        return self.scale * torch.stack(losses).mean()


def _mean_over_rows(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    terms = teacher_logits.softmax(1) * logits.log_softmax(1)
    return -terms.sum() / max(len(logits), 1)
