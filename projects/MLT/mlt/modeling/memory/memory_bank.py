"""Memory: a queue of target features and one prototype for each source identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses import CircleLoss
from mlt.registry import MEMORIES
from mlt.structures import UNKNOWN

EMPTY = -1  # index of a queue slot that nothing was written to


@MEMORIES.register()
class MemoryBank(nn.Module):
    """Unit vectors to compare a batch with; buffers only, no gradient flows into them.

    The queue keeps the dataset index of each feature, and its label is looked up at every use, so that refreshed
    pseudo labels count at once. Losses only read; `update` is the one that writes. All vectors come from one
    embedding space and are normalised here. Source: Zheng et al., CVPR 2021, and its released code.

    Args:
        num_features: length C of a vector.
        num_prototypes: source identities S, >= 0.
        queue_size: target features kept, >= 1.
        circle: the loss.
        prototype_momentum: share of the old prototype in its update, in [0, 1].
        instance_weight: weight of the loss against the queue.
        prototype_weight: weight of the loss against the prototypes.
        rows_per_identity: rows of an identity that move its prototype in one update, >= 1; those beyond do not. It is
            a given number (DATALOADER.NUM_INSTANCE), because counting them would wait for the GPU.
    """

    queue: Tensor
    queue_index: Tensor
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
        rows_per_identity: int = 4,
    ) -> None:
        super().__init__()
        if queue_size < 1:
            raise ValueError(f"MemoryBank: MEMORY.QUEUE_SIZE must be >= 1, got {queue_size}")
        if not 0 <= prototype_momentum <= 1:
            raise ValueError(f"MemoryBank: MEMORY.PROTOTYPE_MOMENTUM must be in [0, 1], got {prototype_momentum}")
        if rows_per_identity < 1:
            raise ValueError(f"MemoryBank: rows_per_identity (NUM_INSTANCE) must be >= 1, got {rows_per_identity}")
        self.circle = circle or CircleLoss(divisor=18.0)
        self.momentum = prototype_momentum
        self.instance_weight = instance_weight
        self.prototype_weight = prototype_weight
        self.rows_per_identity = rows_per_identity
        self.register_buffer("queue", torch.zeros(queue_size, num_features))
        self.register_buffer("queue_index", torch.full((queue_size,), EMPTY))
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
            "rows_per_identity": cfg.DATALOADER.NUM_INSTANCE,
        }

    @full_precision
    def instance_loss(self, features: Tensor, targets: Tensor, labels_by_index: Tensor) -> Tensor:
        """Circle loss of target rows against the queue; source prototypes, once set, are further negatives.

        Args:
            features: [B, C], with gradient.
            targets: int64 [B], pseudo labels; -1 has no positive and so contributes 0.
            labels_by_index: int64 [N], the label of every target image, -1 for an outlier.
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
        )
        return self.instance_weight * loss

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
        self, target_features: Tensor, target_indices: Tensor, source_features: Tensor, source_targets: Tensor
    ) -> None:
        """Enqueue target rows and move the prototypes of source rows, in the order of the batch.

        With several processes every one passes the rows of all, so that the banks stay equal.

        Args:
            target_features: [B, C].
            target_indices: int64 [B], positions in the target set.
            source_features: [A, C]; A may be 0.
            source_targets: int64 [A].
        """
        self._enqueue(F.normalize(target_features.to(self.queue.dtype)), target_indices)
        if len(source_features):
            self._move_prototypes(F.normalize(source_features.to(self.queue.dtype)), source_targets)

    def _enqueue(self, rows: Tensor, indices: Tensor) -> None:
        size = len(self.queue)
        rows, indices = rows[-size:], indices[-size:]  # of more rows than slots only the last would survive
        slots = (self.queue_ptr + torch.arange(len(rows), device=rows.device)) % size
        self.queue[slots] = rows
        self.queue_index[slots] = indices
        self.queue_ptr.copy_((self.queue_ptr + len(rows)) % size)

    def _move_prototypes(self, rows: Tensor, targets: Tensor) -> None:
        """Row by row c <- normalised (m c + (1-m) f), at once for rows of different identities; nothing until set.

        Every row carries its identity's prototype along and all of an identity write the same in the end: no step
        depends on a number that the GPU would have to tell first.
        """
        same = targets[:, None] == targets[None]
        occurrence = same.tril(-1).sum(1)  # how many earlier rows share the identity
        before = self.prototypes[targets]
        moved = before
        for turn in range(min(self.rows_per_identity, len(rows))):
            now = same & (occurrence == turn)  # [row, the row of its identity whose turn it is]
            mixed = self.momentum * moved + (1 - self.momentum) * rows[now.long().argmax(1)]
            moved = torch.where(now.any(1, keepdim=True), F.normalize(mixed), moved)
        self.prototypes[targets] = torch.where(self.has_prototypes, moved, before)

    @torch.no_grad()
    def reset_queue(self) -> None:
        """Empty the queue, as a new set of dataset indices requires."""
        self.queue.zero_()
        self.queue_index.fill_(EMPTY)
        self.queue_ptr.zero_()

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
