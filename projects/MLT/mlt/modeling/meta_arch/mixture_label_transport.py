"""MLT / GLT, Stage II: student, mean teacher and memory on labelled source and pseudo-labelled target images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads import HeadOutput, MixtureLabelHead
from mlt.modeling.losses import ReidLoss
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.memory import MemoryBank
from mlt.modeling.meta_arch.reid_model import ReidModel
from mlt.registry import MEMORIES, META_ARCHS
from mlt.structures import Batch
from mlt.utils import comm


@META_ARCHS.register()
class MixtureLabelTransport(ReidModel):
    """Loss = identification over all clusterings + triplet + circle losses against prototypes and queue.

    Identification, triplet and queue are on target rows, the prototypes on source rows. Target labels come from the
    table given to `set_pseudo_labels`, by dataset index, so a re-labelling counts from the next batch on. `forward`
    changes no weight, no teacher and no memory (batch norm statistics apart); `after_step` does.
    Source: Zheng et al., CVPR 2021.

    Args:
        backbone: normalised images -> feature map.
        heads: feature map -> HeadOutput, with one classifier for each clustering.
        losses: see losses.build_losses; target rows only.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        teacher: average of backbone and heads, None for none; it is the net that is evaluated.
        memory: queue and prototypes, None for none. It compares h if the head has a projection, else b.
    """

    heads: MixtureLabelHead
    labels: Tensor

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: MixtureLabelHead,
        losses: Iterable[ReidLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        teacher: MeanTeacher | None = None,
        memory: MemoryBank | None = None,
    ) -> None:
        super().__init__(backbone, heads, losses, pixel_mean, pixel_std, teacher)
        self.memory = memory
        self.group = 0
        self.register_buffer("labels", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self._pending: dict[str, Tensor] | None = None  # rows of the last batch, for memory.update

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL, MEAN_TEACHER and MEMORY.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: a head without clusterings, or MODEL.DSBN without source sets.
        """
        if cfg.MODEL.DSBN and not cfg.DATASETS.NAMES:
            raise ValueError("MODEL.DSBN needs source images in every batch, but DATASETS.NAMES is empty: set it False")
        parts = super().from_config(cfg)
        backbone, heads = parts["backbone"], parts["heads"]
        if not isinstance(heads, MixtureLabelHead):
            raise ValueError(
                f"MixtureLabelTransport needs MODEL.HEADS.NAME MixtureLabelHead, got {cfg.MODEL.HEADS.NAME!r}"
            )
        name = cfg.MEMORY.NAME
        return {
            **parts,
            "teacher": MeanTeacher(cfg, backbone, heads) if cfg.MEAN_TEACHER.ENABLED else None,
            "memory": MEMORIES.get(name)(cfg, heads.in_channels) if name else None,
        }

    def set_pseudo_labels(self, labels: Tensor, group: int) -> None:
        """Give every target image its labels.

        Args:
            labels: int64 [G, N], -1 for an outlier.
            group: the clustering that drives triplets and memory, 0 .. G - 1.

        Raises:
            ValueError: another number of clusterings than of classifiers, a label without a classifier row, or a
                group that is not there.
        """
        num_groups = len(self.heads.num_active)
        if labels.dim() != 2 or len(labels) != num_groups or labels.dtype != torch.int64:
            raise ValueError(
                f"Pseudo labels must be int64 [{num_groups}, N], one row for each classifier, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        if not 0 <= group < num_groups:
            raise ValueError(f"Pseudo labels: group {group} of {num_groups}; count starts at 0")
        for g, (row, num) in enumerate(zip(labels, self.heads.num_active, strict=True)):
            if len(row) and int(row.max()) >= num:
                raise ValueError(
                    f"Pseudo labels: group {g} has label {int(row.max())} but its classifier {num} classes; "
                    "call reset_classifiers first"
                )
        self.labels = labels.to(self.device)
        self.group = group

    def reset_classifiers(
        self,
        num_clusters: Sequence[int],
        centroids: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        """Start all classifiers again, the teacher's with the student's rows.

        Args:
            num_clusters: classes of each clustering.
            centroids: G tensors [K_g, C] to start from; () = random rows.
            generator: see MixtureLabelHead.reset_classifier.

        Raises:
            ValueError: another number of clusterings than of classifiers, or more clusters than rows.
        """
        if len(num_clusters) != len(self.heads.num_active):
            raise ValueError(f"{len(num_clusters)} clusterings for {len(self.heads.num_active)} classifiers")
        for group, num in enumerate(num_clusters):
            self.heads.reset_classifier(group, num, centroids[group] if centroids else None, generator)
        if self.teacher is not None:
            state = self.heads.state_dict()
            rows = {key: value for key, value in state.items() if key == "active" or key.startswith("classifiers.")}
            self.teacher.heads.load_state_dict(rows, strict=False)

    @torch.no_grad()
    def forget_run(self) -> None:
        """Drop what belongs to the run that weights came from: the memory, whose indices are of its images, and the
        place in the teacher's ramp."""
        if self.teacher is not None:
            self.teacher.restart_ramp()
        if self.memory is not None:
            self.memory.reset_queue()
            self.memory.has_prototypes.zero_()

    def forward(self, batch: Batch | Tensor, net: str = "teacher") -> dict[str, Tensor] | Tensor:
        """Losses in training, unit features [B, C] in evaluation.

        Args:
            batch: a batch dict; in evaluation the images [B, 3, H, W] are enough.
            net: evaluation only, see `ReidModel.net`.
        """
        if not self.training:
            return self.evaluate(batch, net)
        images, source_targets, target_indices = self.unpack(batch)
        out = self.heads(self.backbone(images))
        if self.teacher is not None and self.teacher.bn_buffers == "forward":
            self.teacher(images)
        losses = self._target_losses(out, target_indices)
        if self.memory is not None:
            losses |= self._memory_losses(self.memory, out, source_targets, target_indices)
        return losses

    def _target_losses(self, out: HeadOutput, indices: Tensor) -> dict[str, Tensor]:
        if not self.labels.numel():
            raise RuntimeError("MixtureLabelTransport has no pseudo labels: call set_pseudo_labels before training")
        labels = self.labels[:, indices]
        first = len(out.features) - len(indices)
        losses = {}
        for loss in self.losses:
            if loss.reads == "logits":
                losses[loss.key] = loss([logits[first:] for logits in out.logits], labels)
            else:
                losses[loss.key] = loss.over_processes(getattr(out, loss.reads)[first:], labels[self.group])
        return losses

    def _memory_losses(
        self, memory: MemoryBank, out: HeadOutput, source_targets: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        source, target = _memory_rows(out).split([len(source_targets), len(indices)])
        self._pending = {
            "target_features": comm.all_gather_rows(target.detach()),
            "target_indices": comm.all_gather_rows(indices),
            "source_features": comm.all_gather_rows(source.detach()),
            "source_targets": comm.all_gather_rows(source_targets),
        }
        driving = self.labels[self.group]
        return {
            "loss_prototype": memory.prototype_loss(source, source_targets),
            "loss_instance": memory.instance_loss(target, driving[indices], driving),
        }

    def after_step(self) -> None:
        """Move the teacher towards the student and write the last batch into the memory."""
        if self.teacher is not None:
            self.teacher.update(self.backbone, self.heads)
        if self.memory is not None and self._pending is not None:
            self.memory.update(**self._pending)
        self._pending = None

    def memory_features(self, images: Tensor, net: str = "student") -> Tensor:
        """Features in the memory's space, of which prototypes are made.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.
            net: see `ReidModel.net`.

        Returns:
            [B, C], not normalised
        """
        return _memory_rows(self.run(images, net))

    def classify(self, embeddings: Tensor, net: str = "teacher") -> tuple[Tensor, ...]:
        """Logits of stored embeddings under every classifier.

        Args:
            embeddings: [B, C], b or v.
            net: see `ReidModel.net`.
        """
        return cast(MixtureLabelHead, self.net(net)[1]).classify(embeddings)


def _memory_rows(out: HeadOutput) -> Tensor:
    return out.embeddings if out.projection is None else out.projection
