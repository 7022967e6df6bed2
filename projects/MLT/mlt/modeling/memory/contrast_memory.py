"""What contrastive memories share: one softmax over source prototypes and target clusters."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import full_precision
from mlt.modeling.losses.circle import EXCLUDED
from mlt.modeling.memory.base import Memory, check_moving, move_rows


class ContrastMemory(Memory):
    """A row f is told apart from all classes, source identities w_k and target clusters c_k alike.

    L = -log(exp(<f, z>/tau) / (sum_k exp(<f, w_k>/tau) + sum_k exp(<f, c_k>/tau))), z the vector of f's own class and f
    of unit norm; the mean over source rows and the mean over target rows are two losses. Rows with label -1 do not
    count. A subclass has the c_k (`clusters`), of vectors that it moves. Without `source` rows in `start_round` there
    are no w_k: the unsupervised setting.

    Args:
        num_features: length C of a vector.
        temperature: tau, > 0.
        momentum: share of the old vector in its update, in [0, 1].
        rows_per_class: rows of one class that a batch has at most, >= 1; those beyond would not move its vector. The
            fewer, the faster is `update`, which cannot count them without a wait for the GPU. None = not known.
    """

    resized: tuple[str, ...] = ("prototypes",)
    floor = 0.0  # added to a probability before its logarithm
    prototypes: Tensor

    @configurable
    def __init__(
        self,
        num_features: int,
        temperature: float = 0.05,
        momentum: float = 0.2,
        rows_per_class: int | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"{type(self).__name__}: MEMORY.TEMPERATURE must be > 0, got {temperature}")
        check_moving(self, momentum, rows_per_class)
        self.temperature = temperature
        self.momentum = momentum
        self.rows_per_class = rows_per_class
        self.register_buffer("prototypes", torch.zeros(0, num_features))

    @classmethod
    def from_config(cls, cfg: CfgNode, num_features: int) -> dict[str, Any]:
        """Constructor arguments from MEMORY and DATALOADER.NUM_INSTANCE.

        Args:
            cfg: the whole tree.
            num_features: length of a vector.
        """
        node = cfg.MEMORY
        return {
            "num_features": num_features,
            "temperature": node.TEMPERATURE,
            "momentum": node.PROTOTYPE_MOMENTUM,
            "rows_per_class": cfg.DATALOADER.NUM_INSTANCE,
        }

    def clusters(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [K, C] of the target clusters, and whether there is such a cluster, bool [K].

        Args:
            labels: int64 [N].
        """
        raise NotImplementedError

    @full_precision
    def losses(
        self, source: Tensor, source_targets: Tensor, target: Tensor, target_indices: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """`loss_target`, and with source prototypes `loss_source`; see Memory.losses.

        Args:
            source: [A, C].
            source_targets: int64 [A].
            target: [B, C].
            target_indices: int64 [B].
            labels: int64 [N].

        Raises:
            ValueError: source rows, but no prototypes.
        """
        num_source = len(self.prototypes)
        if len(source) and not num_source:
            raise ValueError(
                f"{type(self).__name__}: a batch with source rows, but there are no source prototypes: "
                "start_round needs source=, the mean feature of each identity"
            )
        clusters, exists = self.clusters(labels)
        vectors = torch.cat([self.prototypes, clusters]).to(target)
        exists = torch.cat([exists.new_ones(num_source), exists])
        own = labels[target_indices]
        own = torch.where(own < 0, own, own + num_source)
        losses = {"loss_target": self._contrast(target, own, vectors, exists)}
        if num_source:
            losses["loss_source"] = self._contrast(source, source_targets, vectors, exists)
        return losses

    def _contrast(self, features: Tensor, classes: Tensor, vectors: Tensor, exists: Tensor) -> Tensor:
        """Mean over the rows whose class exists; 0 with a graph where there is none."""
        place = classes.clamp(min=0)
        counts = (classes >= 0) & exists[place]
        logits = F.linear(F.normalize(features), vectors) / self.temperature
        log_p = logits.masked_fill(~exists, EXCLUDED).log_softmax(1).gather(1, place[:, None]).squeeze(1)
        if self.floor:
            log_p = torch.logaddexp(log_p, torch.full_like(log_p, math.log(self.floor)))
        return -log_p.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)

    @torch.no_grad()
    def update(
        self, source: Tensor, source_targets: Tensor, target: Tensor, target_indices: Tensor, labels: Tensor
    ) -> None:
        """Move vectors towards the rows of their classes; see Memory.update.

        Args:
            source: [A, C].
            source_targets: int64 [A].
            target: [B, C].
            target_indices: int64 [B].
            labels: int64 [N].
        """
        move_rows(self.prototypes, source_targets, source, self.momentum, repeats=self.rows_per_class)
        self.move_target(target, target_indices, labels)

    def move_target(self, rows: Tensor, indices: Tensor, labels: Tensor) -> None:
        """Move the subclass's vectors.

        Args:
            rows: [B, C].
            indices: int64 [B].
            labels: int64 [N].
        """
        raise NotImplementedError

    @torch.no_grad()
    def start_round(self, labels: Tensor, embeddings: Tensor | None = None, source: Tensor | None = None) -> None:
        """Take new source prototypes; see Memory.start_round.

        Args:
            labels: int64 [N].
            embeddings: [N, C].
            source: [S, C]; normalised here.

        Raises:
            ValueError: vectors of another length.
        """
        if source is not None:
            self.prototypes = self.unit_rows(source, "source")

    def forget(self) -> None:
        """Drop all vectors; the next round must bring new ones."""
        for name in self.resized:
            setattr(self, name, getattr(self, name)[:0].clone())

    def unit_rows(self, rows: Tensor, name: str) -> Tensor:
        """Rows as the memory keeps them: of unit norm, in its dtype and on its device.

        Args:
            rows: [M, C].
            name: the argument, for the message.

        Raises:
            ValueError: another length.
        """
        wanted = self.prototypes.shape[1]
        if rows.dim() != 2 or rows.shape[1] != wanted:
            raise ValueError(
                f"{type(self).__name__}: {name} must be [rows, {wanted}] as MEMORY.FEATURE has it, "
                f"got {list(rows.shape)}"
            )
        return F.normalize(rows.detach().to(self.prototypes))
