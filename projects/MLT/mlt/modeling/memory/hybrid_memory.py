"""Hybrid memory of SpCL: source identities, clusters and single images, told apart from one another."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt.config import configurable
from mlt.modeling.memory.base import move_rows
from mlt.modeling.memory.contrast_memory import ContrastMemory
from mlt.registry import MEMORIES
from mlt_ops.segment_mean import unchecked_segment_mean


@MEMORIES.register()
class HybridMemory(ContrastMemory):
    """One row for each source identity and one for each target image.

    The vector of a cluster is the mean of its images' rows as they are now, not brought to unit norm; an un-clustered
    image has a label of its own, so that its vector is its row. Each image of a batch moves its own row. Memory and
    time of a step are O(N C) for N target images. Source: Ge et al., SpCL, NeurIPS 2020, eq. 1-4, and its code.

    Args:
        num_features: length C of a vector.
        temperature: tau, > 0.
        momentum: share of the old row in its update, in [0, 1].
        rows_per_class: rows of one class that a batch has at most, >= 1; those beyond would not move its vector. The
            fewer, the faster is `update`, which cannot count them without a wait for the GPU. None = not known.
    """

    resized: tuple[str, ...] = ("prototypes", "instances")
    floor = 1e-6  # of the released code: no row's loss is above 13.8, nor has a hopeless one much gradient
    instances: Tensor

    @configurable
    def __init__(
        self,
        num_features: int,
        temperature: float = 0.05,
        momentum: float = 0.2,
        rows_per_class: int | None = None,
    ) -> None:
        super().__init__(num_features, temperature, momentum, rows_per_class)
        self.register_buffer("instances", torch.zeros_like(self.prototypes))

    def clusters(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Means [N, C] of the rows with each label, and which labels there are.

        As many places as images, because reading how many labels there are would wait for the GPU.

        Args:
            labels: int64 [N], -1 .. N - 1.
        """
        means, counts = unchecked_segment_mean(self.instances.float(), labels, len(labels))
        return means, counts > 0

    def move_target(self, rows: Tensor, indices: Tensor, labels: Tensor) -> None:
        """Move the row of each image.

        Args:
            rows: [B, C].
            indices: int64 [B].
            labels: not read.
        """
        move_rows(self.instances, indices, rows, self.momentum, repeats=self.rows_per_class)

    def target_features(self) -> Tensor:
        """Unit rows [N, C] of all target images."""
        return self.instances

    @torch.no_grad()
    def start_round(self, labels: Tensor, embeddings: Tensor | None = None, source: Tensor | None = None) -> None:
        """Take new rows, if there are any; see Memory.start_round.

        Args:
            labels: int64 [N].
            embeddings: [N, C]; normalised here.
            source: [S, C]; normalised here.

        Raises:
            ValueError: vectors of another length, or not one row for each label.
        """
        super().start_round(labels, embeddings, source)
        rows = self.instances if embeddings is None else self.unit_rows(embeddings, "embeddings")
        if len(rows) != len(labels):
            raise ValueError(
                f"HybridMemory: labels of {len(labels)} images, but rows of {len(rows)}: the first round needs the "
                "embeddings of all target images"
            )
        self.instances = rows
