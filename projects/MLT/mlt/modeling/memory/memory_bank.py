"""Memory: a queue of target features and one prototype for each source identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses import CircleLoss
from mlt.modeling.memory.base import Memory, check_moving, move_rows
from mlt.registry import MEMORIES
from mlt.structures import UNKNOWN

EMPTY = -1  # index of a queue slot that nothing was written to


@MEMORIES.register()
class MemoryBank(Memory):
    """Unit vectors to compare a batch with; buffers only, no gradient flows into them.

    The queue keeps the dataset index of each feature, and its label is looked up at every use, so that refreshed
    pseudo labels count at once. All vectors come from one embedding space and are normalised here. With weights for
    target rows (UNRN) a pair in the queue's loss counts with the mean of its two, a prototype's being 1.
    Source: Zheng et al., CVPR 2021, and its released code.

    Args:
        num_features: length C of a vector.
        num_prototypes: source identities S, >= 0.
        queue_size: target features kept, >= 1.
        circle: the loss.
        prototype_momentum: share of the old prototype in its update, in [0, 1].
        instance_weight: weight of the loss against the queue.
        prototype_weight: weight of the loss against the prototypes.
        rows_per_class: rows of one identity that a batch has at most, see `move_rows`.
    """

    queue: Tensor
    queue_index: Tensor
    queue_weight: Tensor
    queue_ptr: Tensor
    prototypes: Tensor
    has_prototypes: Tensor

    @configurable
    def __init__(
        self,
        num_features: int,
        num_prototypes: int,
        queue_size: int = 8192,
        circle: CircleLoss | None = None,
        prototype_momentum: float = 0.2,
        instance_weight: float = 1.0,
        prototype_weight: float = 1.0,
        rows_per_class: int | None = None,
    ) -> None:
        super().__init__()
        if queue_size < 1:
            raise ValueError(f"MemoryBank: MEMORY.QUEUE_SIZE must be >= 1, got {queue_size}")
        check_moving(self, prototype_momentum, rows_per_class)
        self.circle = circle or CircleLoss(divisor=18.0)
        self.momentum = prototype_momentum
        self.instance_weight = instance_weight
        self.prototype_weight = prototype_weight
        self.rows_per_class = rows_per_class
        self.register_buffer("queue", torch.zeros(queue_size, num_features))
        self.register_buffer("queue_index", torch.full((queue_size,), EMPTY))
        self.register_buffer("queue_weight", torch.ones(queue_size))
        self.register_buffer("queue_ptr", torch.zeros((), dtype=torch.int64))
        self.register_buffer("prototypes", torch.zeros(num_prototypes, num_features))
        self.register_buffer("has_prototypes", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_config(cls, cfg: CfgNode, num_features: int) -> dict[str, Any]:
        """Constructor arguments from MEMORY and MODEL.HEADS.NUM_CLASSES.

        Args:
            cfg: the whole tree.
            num_features: length of a vector.
        """
        node = cfg.MEMORY
        return {
            "num_features": num_features,
            "num_prototypes": cfg.MODEL.HEADS.NUM_CLASSES if cfg.DATASETS.NAMES else 0,
            "queue_size": node.QUEUE_SIZE,
            "circle": CircleLoss(node.MARGIN, node.GAMMA, node.DIVISOR),
            "prototype_momentum": node.PROTOTYPE_MOMENTUM,
            "instance_weight": node.INSTANCE_WEIGHT,
            "prototype_weight": node.PROTOTYPE_WEIGHT,
            "rows_per_class": cfg.DATALOADER.NUM_INSTANCE,
        }

    def losses(
        self,
        source: Tensor,
        source_targets: Tensor,
        target: Tensor,
        target_indices: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`loss_prototype` of the source rows and `loss_instance` of the target rows; see Memory.losses.

        Args:
            source: [A, C].
            source_targets: int64 [A].
            target: [B, C].
            target_indices: int64 [B].
            labels: int64 [N].
            weights: [B] in (0, 1]; None = 1.
        """
        return {
            "loss_prototype": self.prototype_loss(source, source_targets),
            "loss_instance": self.instance_loss(target, labels[target_indices], labels, weights),
        }

    @full_precision
    def instance_loss(
        self, features: Tensor, targets: Tensor, labels_by_index: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Circle loss of target rows against the queue; source prototypes, once set, are further negatives.

        Args:
            features: [B, C], with gradient.
            targets: int64 [B], pseudo labels; -1 has no positive and so contributes 0.
            labels_by_index: int64 [N], the label of every target image, -1 for an outlier.
            weights: [B] in (0, 1]; None = 1.
        """
        slot_labels = labels_by_index[self.queue_index.clamp(min=0)]
        known = (self.queue_index != EMPTY) & (slot_labels != UNKNOWN)
        same = targets[:, None] == slot_labels[None]
        source = self.has_prototypes.expand(len(features), len(self.prototypes))
        anchors = F.normalize(features)
        similarities = [F.linear(anchors, bank.to(features)) for bank in (self.queue, self.prototypes)]
        loss = self.circle(
            torch.cat(similarities, dim=1),
            torch.cat([same & known, torch.zeros_like(source)], dim=1),
            torch.cat([~same & known, source], dim=1),
            None if weights is None else self._pair_weights(weights),
        )
        return self.instance_weight * loss

    def _pair_weights(self, weights: Tensor) -> Tensor:
        others = torch.cat([self.queue_weight, self.queue_weight.new_ones(len(self.prototypes))])
        return (weights[:, None] + others) / 2

    @full_precision
    def prototype_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Circle loss of source rows against the prototypes; 0 until these are set.

        Args:
            features: [B, C], with gradient.
            targets: int64 [B], source identities 0 .. S - 1.
        """
        own = targets[:, None] == torch.arange(len(self.prototypes), device=targets.device)
        similarity = F.linear(F.normalize(features), self.prototypes.to(features))
        return self.prototype_weight * self.circle(similarity, own & self.has_prototypes, ~own & self.has_prototypes)

    @torch.no_grad()
    def update(
        self,
        source: Tensor,
        source_targets: Tensor,
        target: Tensor,
        target_indices: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        """Enqueue target rows and move the prototypes of source rows, in the order of the batch; see Memory.update.

        Args:
            source: [A, C]; A may be 0.
            source_targets: int64 [A].
            target: [B, C].
            target_indices: int64 [B].
            labels: not read.
            weights: [B] in (0, 1]; None = 1.
        """
        size = len(self.queue)
        rows = F.normalize(target[-size:].to(self.queue.dtype))  # of more rows than slots only the last would survive
        slots = (self.queue_ptr + torch.arange(len(rows), device=rows.device)) % size
        self.queue[slots] = rows
        self.queue_index[slots] = target_indices[-size:]
        self.queue_weight[slots] = 1.0 if weights is None else weights[-size:].to(self.queue_weight.dtype)
        self.queue_ptr.copy_((self.queue_ptr + len(rows)) % size)
        if len(self.prototypes):
            there = self.has_prototypes.expand(len(source))
            move_rows(self.prototypes, source_targets, source, self.momentum, there, self.rows_per_class)

    def start_round(self, labels: Tensor, embeddings: Tensor | None = None, source: Tensor | None = None) -> None:
        """Take new prototypes; the queue stays, as labels are looked up in it. See Memory.start_round.

        Args:
            labels: not read.
            embeddings: not read.
            source: [S, C], see `set_prototypes`; None keeps them.
        """
        if source is not None:
            self.set_prototypes(source)

    @torch.no_grad()
    def forget(self) -> None:
        """Empty the queue, whose indices are of another run's images, and take the prototypes out of the losses."""
        self.queue.zero_()
        self.queue_index.fill_(EMPTY)
        self.queue_ptr.zero_()
        self.has_prototypes.zero_()

    @torch.no_grad()
    def set_prototypes(self, prototypes: Tensor) -> None:
        """Set all prototypes.

        Args:
            prototypes: [S, C], in the space of the features; normalised here.

        Raises:
            ValueError: another shape.
        """
        if prototypes.shape != self.prototypes.shape:
            raise ValueError(
                f"MemoryBank: prototypes must be {list(self.prototypes.shape)} (MODEL.HEADS.NUM_CLASSES rows), "
                f"got {list(prototypes.shape)}"
            )
        self.prototypes.copy_(F.normalize(prototypes.to(self.prototypes)))
        self.has_prototypes.fill_(True)
