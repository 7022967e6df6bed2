"""Triplet loss with the hardest positive and the hardest negative of each anchor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses.base import ReidLoss
from mlt.registry import LOSSES
from mlt.structures import UNKNOWN
from mlt.utils import comm


class HardPairs(NamedTuple):
    """Hardest rows of the pool for each anchor: `positive` and `negative` int64 [B], `exists` bool [B], whether the
    anchor has both. Where it has not, the indices are of no meaning."""

    positive: Tensor
    negative: Tensor
    exists: Tensor

    def gap(self, distance: Tensor) -> Tensor:
        """dp - dn [B] at these indices; -inf without a pair, of which soft margin and hinge make an exact 0.

        Args:
            distance: [B, M], of this net or of another.
        """
        dp, dn = (distance.gather(1, index[:, None]).squeeze(1) for index in (self.positive, self.negative))
        return (dp - dn).masked_fill(~self.exists, -torch.inf)


def mine_hardest(distance: Tensor, targets: Tensor, pool_targets: Tensor) -> HardPairs:
    """The farthest row with the anchor's label and the nearest with another; rows with label -1 are neither.

    Args:
        distance: [B, M], M >= 1; carries no gradient through the choice.
        targets: int64 [B].
        pool_targets: int64 [M].
    """
    known = pool_targets != UNKNOWN
    same = targets[:, None] == pool_targets[None]
    farthest = distance.detach().masked_fill(~(same & known), -torch.inf).max(1)
    nearest = distance.detach().masked_fill(same | ~known, torch.inf).min(1)
    exists = (farthest.values != -torch.inf) & (nearest.values != torch.inf)  # NaN exists: a diverged net must not hide
    return HardPairs(farthest.indices, nearest.indices, exists)


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

    def over_processes(self, rows: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss, mined among the rows of all processes.

        Args:
            rows: [B, C], this process's.
            targets: int64 [B].
            weights: [B], see `forward`.
        """
        pool_weights = None if weights is None else comm.gather_with_grad(weights)
        pool = comm.gather_with_grad(rows), comm.all_gather_rows(targets)
        return self(rows, targets, *pool, weights, pool_weights)

    @full_precision
    def forward(
        self,
        features: Tensor,
        targets: Tensor,
        pool: Tensor | None = None,
        pool_targets: Tensor | None = None,
        weights: Tensor | None = None,
        pool_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            features: anchors [B, C].
            targets: int64 [B].
            pool: rows to mine in, [M, C]; None = the anchors.
            pool_targets: int64 [M]; None = `targets`.
            weights: [B]; a triplet counts with the mean weight of its three rows. None = 1. UNRN (AAAI 2021) has
                -(w_p log p_p + w_n log p_n), which for equal weights is smallest at dp = dn; here it is -w log p_n.
            pool_weights: [M]; None = `weights`.
        """
        pool = features if pool is None else pool
        pool_targets = targets if pool_targets is None else pool_targets
        if not len(features) or not len(pool):
            return 0.0 * features.sum()
        if self.norm_feat:
            features, pool = F.normalize(features), F.normalize(pool)
        distance = euclidean_distance(features, pool)
        pairs = mine_hardest(distance, targets, pool_targets)
        gap = pairs.gap(distance)
        losses = F.relu(gap + self.margin) if self.margin > 0 else F.softplus(gap)
        if weights is not None:
            pool_weights = weights if pool_weights is None else pool_weights
            losses = losses * (weights + pool_weights[pairs.positive] + pool_weights[pairs.negative]) / 3
        return self.scale * losses.mean()
