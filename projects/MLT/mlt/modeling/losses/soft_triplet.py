"""Soft triplet loss: how sure a teacher is of the student's hardest triplets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses.mutual import MutualLoss
from mlt.modeling.losses.triplet import euclidean_distance, mine_hardest
from mlt.registry import LOSSES
from mlt.utils import comm


@LOSSES.register()
class SoftTripletLoss(MutualLoss):
    """Mean over anchors of -[T' log T + (1 - T') log(1 - T)], T = exp(dn) / (exp(dp) + exp(dn)).

    The triplets are the hardest ones of the *student*; T' is the teacher's value on the same rows. An anchor without
    a triplet contributes 0, and rows with label -1 take no part. Source: Ge et al., MMT, ICLR 2020, eq. 7-8.

    Args:
        norm_feat: take distances between unit vectors.
        scale: weight of the loss.
    """

    key = "loss_soft_triplet"
    reads = "features"

    @configurable
    def __init__(self, norm_feat: bool = False, scale: float = 0.8) -> None:
        super().__init__()
        self.norm_feat = norm_feat
        self.scale = scale

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.LOSSES.SOFT_TRI.

        Args:
            cfg: the whole tree.
        """
        node = cfg.MODEL.LOSSES.SOFT_TRI
        return {"norm_feat": node.NORM_FEAT, "scale": node.SCALE}

    def between_nets(self, rows: Tensor, teacher_rows: Tensor, targets: Tensor) -> Tensor:
        """The loss, mined among the rows of all processes.

        Args:
            rows: [B, C], this process's.
            teacher_rows: [B, C], the teacher's of the same images.
            targets: int64 [B].
        """
        pool = comm.gather_with_grad(rows), comm.all_gather_rows(teacher_rows), comm.all_gather_rows(targets)
        return self(rows, teacher_rows, targets, *pool)

    @full_precision
    def forward(
        self,
        features: Tensor,
        teacher: Tensor,
        targets: Tensor,
        pool: Tensor | None = None,
        pool_teacher: Tensor | None = None,
        pool_targets: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            features: anchors [B, C].
            teacher: the teacher's features of the same images [B, D]; no gradient flows into them.
            targets: int64 [B].
            pool: rows to mine in, [M, C]; None = the anchors.
            pool_teacher: the teacher's features of the pool's images, [M, D]; None = `teacher`.
            pool_targets: int64 [M]; None = `targets`.
        """
        pool = features if pool is None else pool
        pool_teacher = teacher if pool_teacher is None else pool_teacher
        pool_targets = targets if pool_targets is None else pool_targets
        if not len(features) or not len(pool):
            return 0.0 * features.sum()
        distance = self._distance(features, pool)
        pairs = mine_hardest(distance, targets, pool_targets)
        gap = pairs.gap(distance).masked_fill(~pairs.exists, 0.0)
        sure = torch.sigmoid(-pairs.gap(self._distance(teacher.detach(), pool_teacher.detach())))
        losses = sure * F.softplus(gap) + (1 - sure) * F.softplus(-gap)  # log T = -softplus(dp - dn)
        return self.scale * losses.masked_fill(~pairs.exists, 0.0).mean()

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return euclidean_distance(F.normalize(a), F.normalize(b)) if self.norm_feat else euclidean_distance(a, b)
