"""Identification loss: cross entropy with label smoothing, over one classifier or a mixture of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses.base import ReidLoss
from mlt.registry import LOSSES
from mlt.structures import UNKNOWN


@LOSSES.register()
class CrossEntropyLoss(ReidLoss):
    """Mean over classifiers of the mean over rows of -sum_k q_k log softmax(z)_k, q_k = (1-eps)[k=y] + eps/K.

    Rows with label -1 do not count; with no row left the loss is 0 and keeps its graph.
    Source: Szegedy et al., CVPR 2016, sec. 7.

    Args:
        epsilon: label smoothing, in [0, 1).
        scale: weight of the loss.
    """

    key = "loss_cls"
    reads = "logits"

    @configurable
    def __init__(self, epsilon: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 <= epsilon < 1:
            raise ValueError(f"CrossEntropyLoss: epsilon (MODEL.LOSSES.CE.EPSILON) must be in [0, 1), got {epsilon}")
        self.epsilon = epsilon
        self.scale = scale

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.LOSSES.CE.

        Args:
            cfg: the whole tree.
        """
        return {"epsilon": cfg.MODEL.LOSSES.CE.EPSILON, "scale": cfg.MODEL.LOSSES.CE.SCALE}

    @full_precision
    def forward(self, logits: Tensor | Sequence[Tensor], targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            logits: [B, K], or G tensors [B, K_g].
            targets: int64 [B], or [G, B]; 0 .. K_g - 1, or -1.
            weights: [B], factor of each row's loss, e.g. `reliability`; None = 1. The mean stays one over rows.

        Raises:
            ValueError: another number of classifiers than of label rows.
        """
        groups = [logits] if isinstance(logits, Tensor) else list(logits)
        labels = targets if targets.dim() == 2 else targets[None]
        if len(groups) != len(labels):
            raise ValueError(f"CrossEntropyLoss: {len(groups)} classifiers but labels for {len(labels)}")
        losses = [self._mean_over_rows(z, y, weights) for z, y in zip(groups, labels, strict=True)]
        return self.scale * torch.stack(losses).mean()

    def _mean_over_rows(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        losses = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, label_smoothing=self.epsilon, reduction="none")
        total = losses.sum() if weights is None else (weights * losses).sum()
        return total / (targets != UNKNOWN).sum().clamp(min=1)
