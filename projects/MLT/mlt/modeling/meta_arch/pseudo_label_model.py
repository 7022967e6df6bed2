"""One student on pseudo-labelled target images, with what a method adds: source rows, a mean teacher, a memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads import HeadOutput, MixtureLabelHead, NeckHead
from mlt.modeling.losses import ReidLoss
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.memory import Memory
from mlt.modeling.meta_arch.reid_model import ReidModel
from mlt.registry import MEMORIES, META_ARCHS
from mlt.structures import UNKNOWN, Batch
from mlt.utils import comm


@META_ARCHS.register()
class PseudoLabelModel(ReidModel):
    """The sum of the losses of MODEL.LOSSES.NAME and of the memory.

    Losses are on target rows, and on source rows too where the classifiers hold source identities. Target labels come
    from the table given to `set_pseudo_labels`, by dataset index, so a re-labelling counts from the next batch on.
    `forward` changes no weight, no teacher and no memory (batch norm statistics apart); `after_step` does. By its
    config this is the strong baseline, SpCL or ClusterContrast; MLT, MMT and UNRN build on it.

    Args:
        backbone: normalised images -> feature map.
        heads: feature map -> HeadOutput, with one classifier for each clustering or none.
        losses: see losses.build_losses.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        teacher: average of backbone and heads, None for none; it is the net that is evaluated.
        memory: what batches are compared with, None for none. It holds h if the head has a projection, else b.
    """

    heads: NeckHead
    labels: Tensor

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: NeckHead,
        losses: Iterable[ReidLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        teacher: MeanTeacher | None = None,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(backbone, heads, losses, pixel_mean, pixel_std, teacher)
        self.memory = memory
        self.group = 0
        self.register_buffer("labels", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self._pending: list[dict[str, Tensor]] = []  # rows of this step's forward passes, for memory.update

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL, MEAN_TEACHER and MEMORY.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: MODEL.DSBN or MODEL.HEADS.WITH_SOURCE without source sets, or nothing that gives a loss.
        """
        if not (cfg.DATASETS.NAMES and cfg.PSEUDO_LABELS.WITH_SOURCE):
            for key, on in (("MODEL.DSBN", cfg.MODEL.DSBN), ("MODEL.HEADS.WITH_SOURCE", cfg.MODEL.HEADS.WITH_SOURCE)):
                if on:
                    raise ValueError(
                        f"{key} needs source images in every batch, but DATASETS.NAMES is empty or "
                        "PSEUDO_LABELS.WITH_SOURCE False: set it False"
                    )
        parts = super().from_config(cfg)
        backbone, heads = parts["backbone"], parts["heads"]
        name = cls.memory_name(cfg)
        return {
            **parts,
            "teacher": MeanTeacher(cfg, backbone, heads) if cfg.MEAN_TEACHER.ENABLED else None,
            "memory": MEMORIES.get(name)(cfg, heads.in_channels) if name else None,
        }

    @classmethod
    def memory_name(cls, cfg: CfgNode) -> str:
        """MEMORY.NAME.

        Args:
            cfg: the whole tree.
        """
        return cfg.MEMORY.NAME

    @property
    def classifiers(self) -> list[nn.Parameter]:
        """The students' classifier weights that follow the clusterings."""
        heads = [module for net in self.branches for module in net.heads.modules()]
        return [weight for head in heads if isinstance(head, MixtureLabelHead) for weight in head.classifiers]

    def set_pseudo_labels(self, labels: Tensor, group: int) -> None:
        """Give every target image its labels.

        Args:
            labels: int64 [G, N], -1 for an outlier.
            group: the clustering that drives triplets and memory, 0 .. G - 1.

        Raises:
            ValueError: another number of clusterings than of classifiers, a label without a classifier row, or a
                group that is not there.
        """
        num_groups = len(self.heads.num_active) or len(labels)  # without classifiers any number will do
        if labels.dim() != 2 or len(labels) != num_groups or labels.dtype != torch.int64:
            raise ValueError(
                f"Pseudo labels must be int64 [{num_groups}, N], one row for each classifier, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        if not 0 <= group < num_groups:
            raise ValueError(f"Pseudo labels: group {group} of {num_groups}; count starts at 0")
        for g, (row, num) in enumerate(zip(labels, self.heads.num_active, strict=False)):
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
        source: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Start the clusters' rows of all classifiers again, a teacher's with its student's rows.

        Args:
            num_clusters: classes of each clustering.
            centroids: G tensors [K_g, C] to start from; () = random rows.
            source: [S, C] to start the source identities' rows from, where there are any; None = leave them.
            generator: see MixtureLabelHead.reset_classifier.

        Raises:
            ValueError: another number of clusterings than of classifiers, or more clusters than rows.
        """
        for net in self.branches:
            heads = net.heads
            if not isinstance(heads, MixtureLabelHead):
                continue
            if len(num_clusters) != len(heads.num_active):
                raise ValueError(f"{len(num_clusters)} clusterings for {len(heads.num_active)} classifiers")
            for group, num in enumerate(num_clusters):
                heads.reset_classifier(group, num, centroids[group] if centroids else None, generator)
            if source is not None and heads.num_source:
                heads.set_source_rows(source)
            if net.teacher is not None:
                state = heads.state_dict()
                rows = {k: v for k, v in state.items() if k.split(".")[-1] == "active" or "classifiers" in k.split(".")}
                net.teacher.heads.load_state_dict(rows, strict=False)

    @torch.no_grad()
    def forget_run(self) -> None:
        """Drop what belongs to the run that weights came from: the memory, whose indices are of its images, and the
        place in the teacher's ramp."""
        for net in self.branches:
            if net.teacher is not None:
                net.teacher.restart_ramp()
        if self.memory is not None:
            self.memory.forget()

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
        rows, labels = self.labelled(out, source_targets, target_indices)
        losses = self.reid_losses(rows, labels)
        if self.memory is not None:
            losses |= self.memory_losses(self.memory, out, source_targets, target_indices)
        return losses

    def labelled(self, out: HeadOutput, source_targets: Tensor, indices: Tensor) -> tuple[HeadOutput, Tensor]:
        """The rows of a batch that classifiers and pair losses learn from.

        Args:
            out: of all rows.
            source_targets: int64 [A], identities of the first rows.
            indices: int64 [B - A], dataset indices of the rows behind them.

        Returns:
            the target rows, or all where the classifiers hold source identities; and their labels int64 [G, rows]

        Raises:
            RuntimeError: there are no labels yet.
        """
        if not self.labels.numel():
            raise RuntimeError(f"{type(self).__name__} has no pseudo labels: call set_pseudo_labels before training")
        labels = self.labels[:, indices]
        num_source = self.heads.num_source
        if not num_source:
            return out.behind(len(source_targets)), labels
        labels = torch.where(labels == UNKNOWN, labels, labels + num_source)
        return out, torch.cat([source_targets.expand(len(labels), -1), labels], dim=1)

    def memory_losses(
        self, memory: Memory, out: HeadOutput, source_targets: Tensor, indices: Tensor, **extra: Tensor
    ) -> dict[str, Tensor]:
        """Losses against the memory; the rows are kept for its update after the step.

        Args:
            memory: the memory.
            out: of all rows.
            source_targets: int64 [A], identities of the first rows.
            indices: int64 [B - A], dataset indices of the rows behind them.
            **extra: further arguments of this memory, one row for each target row.
        """
        source, target = memory_rows(out).split([len(source_targets), len(indices)])
        rows = {
            "source": source,
            "source_targets": source_targets,
            "target": target,
            "target_indices": indices,
            **extra,
        }
        labels = self.labels[self.group]
        whole = {name: comm.all_gather_rows(row.detach()) for name, row in rows.items()}
        self._pending.append(whole | {"labels": labels})
        return memory.losses(**rows, labels=labels)

    def before_step(self) -> None:
        """Forget the rows of a step that the optimizer did not take."""
        self._pending.clear()

    def after_step(self) -> None:
        """Move the teachers towards their students and write the step's rows into the memory."""
        for net in self.branches:
            if net.teacher is not None:
                net.teacher.update(net.backbone, net.heads)
        if self.memory is not None:
            for rows in self._pending:
                self.memory.update(**rows)
        self._pending.clear()

    def label_features(self, images: Tensor) -> Tensor:
        """What is clustered.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            b [B, C] of the net that labels
        """
        return self.embed(images)

    def source_features(self, images: Tensor) -> Tensor:
        """What source prototypes, and source identities' classifier rows, are made of: the memory's space.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            [B, C], not normalised
        """
        return memory_rows(self.run(images, "student"))

    def classify(self, embeddings: Tensor, net: str = "teacher") -> tuple[Tensor, ...]:
        """Logits of stored embeddings for the clusters of every classifier.

        Args:
            embeddings: [B, C], b or v.
            net: see `ReidModel.net`.

        Returns:
            G tensors [B, K_g]
        """
        heads = self.net(net)[1]
        if not isinstance(heads, MixtureLabelHead):
            raise TypeError(f"{type(heads).__name__} has no classifiers, which LABEL_TRANSPORT needs: switch it off")
        return tuple(logits[:, heads.num_source :] for logits in heads.classify(embeddings))


def memory_rows(out: HeadOutput) -> Tensor:
    """What memories hold and compare: the projection h if there is one, else b.

    Args:
        out: of B rows.
    """
    return out.embeddings if out.projection is None else out.projection
