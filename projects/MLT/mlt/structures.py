"""The nouns that parts hand to each other: records, sets, pseudo labels. Frozen, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# batch dict of the training loop, source rows first, then target rows:
#   images uint8 [B,3,H,W]   targets int64 [B]   camids int64 [B]   domains int64 [B] (SOURCE or TARGET)
#   indices int64 [B], the position within its own domain's records   img_paths list[str]
#   views uint8 [B,3,H,W], a second augmentation of the images, for the models that ask for it
Batch = dict[str, Any]
SOURCE, TARGET = 0, 1
Rows = slice | Tensor  # of a matrix: an index of either kind
UNKNOWN = -1  # a pid or camid that nobody knows


@dataclass(frozen=True)
class ReidRecord:
    """One image on disk.

    Args:
        path: file name, absolute or relative to the working directory.
        pid: identity >= 0 (0 is the distractor class of Market-style galleries), UNKNOWN without one.
        camid: camera >= 0, UNKNOWN without one.
    """

    path: str
    pid: int = UNKNOWN
    camid: int = UNKNOWN


@dataclass(frozen=True)
class ReidSet:
    """A re-ID data set: records in a fixed (sorted) order.

    Args:
        name: as the user wrote it, e.g. "Market1501" or "Folder@/data/crops".
        train: training images.
        query: test queries, may be empty.
        gallery: test gallery, may be empty.
        random_galleries: for a protocol whose results are means over several galleries: of each trial the positions
            in query + gallery that form its gallery, all others being its queries. () = one trial, as it stands.

    Raises:
        ValueError: a random gallery that is empty, holds all, or reaches beyond the test images.
    """

    name: str
    train: tuple[ReidRecord, ...]
    query: tuple[ReidRecord, ...] = ()
    gallery: tuple[ReidRecord, ...] = ()
    random_galleries: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        total = len(self.query) + len(self.gallery)
        for trial, rows in enumerate(self.random_galleries):
            if not 0 < len(set(rows)) < total or not 0 <= min(rows) <= max(rows) < total:
                raise ValueError(
                    f"{self.name}: random gallery {trial} must hold some, not all, of the positions 0..{total - 1}; "
                    f"got {len(set(rows))} of {min(rows, default=None)}..{max(rows, default=None)}"
                )

    def trials(self) -> list[tuple[Rows, Rows]]:
        """Rows of the queries and of the gallery in query + gallery, for each trial of the protocol."""
        num_query = len(self.query)
        if not self.random_galleries:
            return [(slice(None, num_query), slice(num_query, None))]
        in_gallery = torch.zeros(len(self.random_galleries), num_query + len(self.gallery), dtype=torch.bool)
        for row, gallery in zip(in_gallery, self.random_galleries):
            row[list(gallery)] = True
        return [((~row).nonzero()[:, 0], row.nonzero()[:, 0]) for row in in_gallery]

    @property
    def has_test(self) -> bool:
        """Whether there is something to evaluate on."""
        return bool(self.query and self.gallery)

    @property
    def num_train_pids(self) -> int:
        """Number of known training identities."""
        return len({r.pid for r in self.train} - {UNKNOWN})


@dataclass(frozen=True, eq=False)  # tensors have no one truth value, which a generated == would ask them for
class PseudoLabels:
    """Cluster labels of the N target images under G clusterings ("groups") of the same features.

    Args:
        labels: int64 [G, N] on the CPU; 0 .. num_clusters[g]-1, or -1 for an outlier.
        num_clusters: clusters of each group.
        group: the group whose labels drive sampler, triplets and memory ("choice_c" of the released code).
    """

    labels: Tensor
    num_clusters: tuple[int, ...]
    group: int = 0

    def __post_init__(self) -> None:
        if self.labels.dim() != 2 or self.labels.dtype != torch.int64:
            raise ValueError(
                f"PseudoLabels: labels must be int64 [G, N], got {self.labels.dtype} {list(self.labels.shape)}"
            )
        if len(self.num_clusters) != len(self.labels):
            raise ValueError(f"PseudoLabels: {len(self.labels)} groups but num_clusters {self.num_clusters}")
        if not 0 <= self.group < len(self.labels):
            raise ValueError(f"PseudoLabels: group {self.group} of {len(self.labels)} groups; count starts at 0")
        for g, (row, num) in enumerate(zip(self.labels, self.num_clusters, strict=True)):
            if len(row) and (int(row.min()) < -1 or int(row.max()) >= num):
                raise ValueError(
                    f"PseudoLabels: group {g} has labels {int(row.min())}..{int(row.max())}, wanted -1..{num - 1}"
                )

    @property
    def targets(self) -> Tensor:
        """int64 [N]: the labels of the driving group."""
        return self.labels[self.group]
