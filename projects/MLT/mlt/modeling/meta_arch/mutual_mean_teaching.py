"""MMT: two students, each of which also learns from the other one's mean teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads import HeadOutput, NeckHead
from mlt.modeling.losses import MutualLoss, ReidLoss
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.meta_arch.pseudo_label_model import PseudoLabelModel
from mlt.modeling.meta_arch.reid_model import ReidModel
from mlt.registry import META_ARCHS
from mlt.structures import Batch

SECOND = " 2"  # behind a net's name: of the second student


@META_ARCHS.register()
class MutualMeanTeaching(PseudoLabelModel):
    """The losses of MODEL.LOSSES.NAME, summed over both students; the mutual ones against the *other* one's teacher.

    The first student and its teacher see one augmented view of each image, the second pair the other. With source
    identities in the classifiers (MODEL.HEADS.WITH_SOURCE) this is MMT+ of OpenUnReID, and all losses are on both
    domains. Source: Ge et al., ICLR 2020.

    Args:
        backbone: normalised images -> feature map; the first student's.
        heads: feature map -> HeadOutput, with one classifier for each clustering; the first student's.
        losses: see losses.build_losses; the paper's are cross entropy and triplet, hard and soft.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        teacher: of the first student.
        peer: the second student with its teacher.
    """

    num_starts = 2
    num_views = 2
    teacher: MeanTeacher

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: NeckHead,
        losses: Iterable[ReidLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        teacher: MeanTeacher,
        peer: ReidModel,
    ) -> None:
        super().__init__(backbone, heads, losses, pixel_mean, pixel_std, teacher)
        self.peer = peer

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL and MEAN_TEACHER.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: no teacher, or a memory; further see PseudoLabelModel.
        """
        if not cfg.MEAN_TEACHER.ENABLED or cfg.MEMORY.NAME:
            raise ValueError("MutualMeanTeaching needs MEAN_TEACHER.ENABLED True and takes no memory: MEMORY.NAME ''")
        first, second = (super(MutualMeanTeaching, cls).from_config(cfg) for _ in range(2))
        del first["memory"], second["memory"]
        return {**first, "peer": ReidModel(**{**second, "losses": ()})}

    @property
    def branches(self) -> tuple[ReidModel, ...]:
        """Both students, each with its teacher."""
        return (self, self.peer)

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the nets; the first teacher, the one to be used, last."""
        return ("student", "student" + SECOND, "teacher" + SECOND, "teacher")

    def net(self, name: str) -> tuple[nn.Module, nn.Module]:
        """Backbone and head of one net.

        Args:
            name: one of `nets`.

        Raises:
            ValueError: another name.
        """
        return self.peer.net(name.removesuffix(SECOND)) if name.endswith(SECOND) else super().net(name)

    def forward(self, batch: Batch | Tensor, net: str = "teacher") -> dict[str, Tensor] | Tensor:
        """Losses in training, unit features [B, C] in evaluation.

        Args:
            batch: a batch dict with two views; in evaluation the images [B, 3, H, W] are enough.
            net: evaluation only, one of `nets`.
        """
        if not self.training:
            return self.evaluate(batch, net)
        images, source_targets, indices = self.unpack(batch)
        views = (images, self.preprocess(cast(Batch, batch)["views"]))
        learnt, taught = [], []
        for student, view in zip(self.branches, views, strict=True):
            rows, labels = self.labelled(student.heads(student.backbone(view)), source_targets, indices)
            learnt.append(rows)
            taught.append(self.labelled(cast(MeanTeacher, student.teacher)(view), source_targets, indices)[0])
        pairs = zip(learnt, reversed(taught), strict=True)
        each = [self._losses(rows, teacher, labels) for rows, teacher in pairs]
        return {key: each[0][key] + each[1][key] for key in each[0]}

    def _losses(self, rows: HeadOutput, teacher: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """Losses of one student: rows of its own, of the other one's teacher, labels [G, rows]."""
        values = {}
        for loss in self.losses:
            if isinstance(loss, MutualLoss):
                mine, theirs = getattr(rows, loss.reads), getattr(teacher, loss.reads)
                values[loss.key] = loss.between_nets(mine, theirs, labels[self.group])
            else:
                values[loss.key] = loss.of(rows, labels, self.group)
        return values

    def label_features(self, images: Tensor) -> Tensor:
        """What is clustered: the mean of both teachers' unit features.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            [B, C], at most of unit norm
        """
        return self._mean_of(images, "teacher")

    def source_features(self, images: Tensor) -> Tensor:
        """What source identities' classifier rows start from: the mean of both students' unit features.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            [B, C], at most of unit norm
        """
        return self._mean_of(images, "student")

    def _mean_of(self, images: Tensor, kind: str) -> Tensor:
        unit = [normalize(self.embed(images, net).float()) for net in self.nets if net.startswith(kind)]
        return torch.stack(unit).mean(0)
