"""UNRN: pseudo labels count by how sure the net and its teacher agree on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads import HeadOutput, NeckHead, TwoDepthMixtureHead
from mlt.modeling.losses import ReidLoss, TripletLoss, reliability, uncertainty
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.memory import MemoryBank
from mlt.modeling.meta_arch.pseudo_label_model import PseudoLabelModel, memory_rows
from mlt.registry import META_ARCHS
from mlt.structures import Batch


@META_ARCHS.register()
class UncertaintyGuided(PseudoLabelModel):
    """Each loss of a target row is weighted with w = exp(-u), and the mean of u is a loss of its own.

    u is the divergence of the student from the teacher in the shallow head's classes and in the similarities of the
    image to the source prototypes. Source: Zheng et al., AAAI 2021. Not taken over from the released code: its
    cross entropy, of which the weights only change the mean, and its triplet, which pulls negatives closer.

    Args:
        backbone: normalised images -> maps of two depths.
        heads: two depths, one classifier each for the clustering.
        losses: CrossEntropyLoss and TripletLoss, at both depths the first, on the deep features the second.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        teacher: average of backbone and heads.
        memory: queue and prototypes.
        regularizer: weight of the mean uncertainty, >= 0.
    """

    teacher: MeanTeacher
    memory: MemoryBank

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: NeckHead,
        losses: Iterable[ReidLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        teacher: MeanTeacher,
        memory: MemoryBank,
        regularizer: float = 1.0,
    ) -> None:
        super().__init__(backbone, heads, losses, pixel_mean, pixel_std, teacher, memory)
        self.regularizer = regularizer

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL, MEAN_TEACHER and MEMORY.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: a part is not what it has to be; further see PseudoLabelModel.
        """
        parts = super().from_config(cfg)
        if parts["heads"].num_source:
            raise ValueError("UncertaintyGuided weighs target rows only: set MODEL.HEADS.WITH_SOURCE False")
        fits = isinstance(parts["heads"], TwoDepthMixtureHead) and isinstance(parts["memory"], MemoryBank)
        if not fits or parts["teacher"] is None:
            raise ValueError(
                "UncertaintyGuided needs MODEL.BACKBONE.NAME TwoDepthResNet, MODEL.HEADS.NAME TwoDepthMixtureHead, "
                f"MEMORY.NAME MemoryBank and MEAN_TEACHER.ENABLED True; got {cfg.MODEL.BACKBONE.NAME}, "
                f"{cfg.MODEL.HEADS.NAME}, {cfg.MEMORY.NAME!r} and {cfg.MEAN_TEACHER.ENABLED}"
            )
        return {**parts, "regularizer": cfg.MODEL.LOSSES.UNCERTAINTY.SCALE}

    def forward(self, batch: Batch | Tensor, net: str = "teacher") -> dict[str, Tensor] | Tensor:
        """Losses in training, unit features [B, C] in evaluation.

        Args:
            batch: a batch dict; in evaluation the images [B, 3, H, W] are enough.
            net: evaluation only, see `ReidModel.net`.
        """
        if not self.training:
            return self.evaluate(batch, net)
        images, source_targets, indices = self.unpack(batch)
        out, taught = self.heads(self.backbone(images)), self.teacher(images)
        rows, labels = self.labelled(out, source_targets, indices)
        teacher_rows, _ = self.labelled(taught, source_targets, indices)
        uncertain = uncertainty(self._beliefs(rows), self._beliefs(teacher_rows))
        weights = reliability(uncertain)
        losses = {"loss_uncertainty": self.regularizer * uncertain.mean()}
        for loss in self.losses:
            if isinstance(loss, TripletLoss):
                losses[loss.key] = loss.over_processes(rows.features, labels[self.group], weights)
            else:
                losses[loss.key] = loss(rows.logits, labels, weights)
                losses[f"{loss.key}_shallow"] = loss(_shallow(rows).logits, labels, weights)
        return losses | self.memory_losses(self.memory, out, source_targets, indices, weights=weights.detach())

    @torch.no_grad()
    def row_weights(self, images: Tensor) -> Tensor:
        """Weights w of images as the nets are now, in the mode they are in.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            [B] in (0, 1]
        """
        return reliability(uncertainty(self._beliefs(self.run(images, "student")), self._beliefs(self.run(images))))

    def _beliefs(self, rows: HeadOutput) -> list[Tensor]:
        """What u compares: classes of the shallow head, and similarities to source identities."""
        return [*_shallow(rows).logits, F.linear(memory_rows(rows), self.memory.prototypes)]


def _shallow(rows: HeadOutput) -> HeadOutput:
    return cast(HeadOutput, rows.auxiliary)
