"""Memory of ClusterContrast: one vector for each cluster."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.memory.base import move_rows
from mlt.modeling.memory.contrast_memory import ContrastMemory
from mlt.registry import MEMORIES
from mlt.structures import UNKNOWN
from mlt_ops import segment_mean


@MEMORIES.register()
class ClusterMemory(ContrastMemory):
    """One unit vector for each cluster, at first the mean of its images; every image of a batch moves its cluster's.

    With source prototypes they are further classes, which move likewise. An empty cluster does not count until its
    first image comes. Source: Dai et al., ClusterContrast, ACCV 2022, eq. 1-5.

    Args:
        num_features: length C of a vector.
        temperature: tau, > 0.
        momentum: share of the old vector in its update, in [0, 1]; 0.1 in the authors' scripts.
        rows_per_class: rows of one class that a batch has at most, >= 1; those beyond would not move its vector. The
            fewer, the faster is `update`, which cannot count them without a wait for the GPU. None = not known.
        hard: only the row of a batch that is least similar to its cluster's vector moves it.
    """

    resized: tuple[str, ...] = ("prototypes", "centroids")
    centroids: Tensor

    @configurable
    def __init__(
        self,
        num_features: int,
        temperature: float = 0.05,
        momentum: float = 0.1,
        rows_per_class: int | None = None,
        hard: bool = False,
    ) -> None:
        super().__init__(num_features, temperature, momentum, rows_per_class)
        self.hard = hard
        self.register_buffer("centroids", torch.zeros_like(self.prototypes))

    @classmethod
    def from_config(cls, cfg: CfgNode, num_features: int) -> dict[str, Any]:
        """Constructor arguments from MEMORY and DATALOADER.NUM_INSTANCE.

        Args:
            cfg: the whole tree.
            num_features: length of a vector.
        """
        return {**super().from_config(cfg, num_features), "hard": cfg.MEMORY.HARD}

    def clusters(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [K, C], and which are not empty.

        Args:
            labels: not read.
        """
        return self.centroids, self.centroids.any(1)

    def move_target(self, rows: Tensor, indices: Tensor, labels: Tensor) -> None:
        """Move the vector of each image's cluster.

        Args:
            rows: [B, C].
            indices: int64 [B].
            labels: int64 [N].
        """
        own = labels[indices]
        counts = own != UNKNOWN
        if self.hard:
            counts = counts & self._least_similar(rows, own)
        move_rows(self.centroids, own, rows, self.momentum, counts, self.rows_per_class)

    def _least_similar(self, rows: Tensor, own: Tensor) -> Tensor:
        """Whether a row is the least similar of its cluster, the first of equals; bool [B]."""
        similarity = (F.normalize(rows.to(self.centroids)) * self.centroids[own.clamp(min=0)]).sum(1)
        worst_first = similarity.argsort(stable=True)
        rank = torch.empty_like(worst_first).scatter_(0, worst_first, torch.arange(len(own), device=own.device))
        same = own[:, None] == own[None]
        return ~(same & (rank[None] < rank[:, None])).any(1)

    @torch.no_grad()
    def start_round(self, labels: Tensor, embeddings: Tensor | None = None, source: Tensor | None = None) -> None:
        """Start with the mean of each cluster's unit embeddings; see Memory.start_round.

        Args:
            labels: int64 [N].
            embeddings: [N, C]; None keeps the vectors, for labels of the same clusters.
            source: [S, C]; normalised here.

        Raises:
            ValueError: vectors of another length, or labels of clusters that have no vector.
        """
        super().start_round(labels, embeddings, source)
        num_clusters = int(labels.max()) + 1 if len(labels) else 0
        if embeddings is not None:
            rows = self.unit_rows(embeddings, "embeddings")
            means = segment_mean(rows, labels.to(rows.device), num_clusters)[0]
            self.centroids = F.normalize(means.to(rows))
        elif num_clusters > len(self.centroids):
            raise ValueError(
                f"ClusterMemory: labels of {num_clusters} clusters, but vectors of {len(self.centroids)}: a new "
                "clustering needs the embeddings it was made of"
            )
