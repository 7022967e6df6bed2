"""Triplet loss with the hardest positive and the hardest negative of each anchor."""

from __future__ import annotations

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


def euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances of all pairs, at least 1e-6, where the gradient of the square root would blow up.

    Args:
        a: [B, C].
        b: [M, C].

    Returns:
        [B, M]
    """
    squared = torch.addmm(b.square().sum(1)[None] + a.square().sum(1)[:, None], a, b.t(), alpha=-2)
    return squared.clamp(min=1e-12).sqrt()


@LOSSES.register()
class TripletLoss(ReidLoss):
    """Mean over anchors of log(1 + exp(dp - dn)), or of [dp - dn + margin]_+.

    dp is the distance to the farthest row with the same label (the anchor itself is one, at distance 0), dn to the
    nearest with another. An anchor without a negative contributes 0, and rows with label -1 are neither.
    Source: Hermans et al., 2017 (batch hard); the soft margin is MMT's softmax triplet.

    Args:
        margin: 0 = soft margin; > 0 = hinge.
        norm_feat: take distances between unit vectors.
        scale: weight of the loss.
    """

    key = "loss_triplet"
    reads = "features"

    @configurable
    def __init__(self, margin: float = 0.0, norm_feat: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"TripletLoss: margin (MODEL.LOSSES.TRI.MARGIN) must be >= 0, got {margin}")
        self.margin = margin
        self.norm_feat = norm_feat
        self.scale = scale

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.LOSSES.TRI.

        Args:
            cfg: the whole tree.
        """
        node = cfg.MODEL.LOSSES.TRI
        return {"margin": node.MARGIN, "norm_feat": node.NORM_FEAT, "scale": node.SCALE}

    @full_precision
    def forward(
        self, features: Tensor, targets: Tensor, pool: Tensor | None = None, pool_targets: Tensor | None = None
    ) -> Tensor:
        """The loss.

        Args:
            features: anchors [B, C].
            targets: int64 [B].
            pool: rows to mine in, [M, C]; None = the anchors.
            pool_targets: int64 [M]; None = `targets`.
        """
        pool = features if pool is None else pool
        pool_targets = targets if pool_targets is None else pool_targets
        if not len(features) or not len(pool):
            return 0.0 * features.sum()
        if self.norm_feat:
            features, pool = F.normalize(features), F.normalize(pool)
        distance = euclidean_distance(features, pool)
        known = pool_targets != UNKNOWN
        same = targets[:, None] == pool_targets[None]
        # -inf and inf where there is nothing to choose from: both losses below are then exactly 0, gradient as well
        hardest_positive = distance.masked_fill(~(same & known), -torch.inf).max(1).values
        hardest_negative = distance.masked_fill(same | ~known, torch.inf).min(1).values
        gap = hardest_positive - hardest_negative
        losses = F.relu(gap + self.margin) if self.margin > 0 else F.softplus(gap)
        return self.scale * losses.mean()
