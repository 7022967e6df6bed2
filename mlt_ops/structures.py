"""What the operators return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Neighbors(NamedTuple):
    """The k nearest rows of each query, nearest first.

    `distance` [Q, k] float32 holds squared Euclidean distances, `index` [Q, k] int64 the rows of the searched features.
    """

    distance: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class KMeansResult(NamedTuple):
    """A K-Means clustering of N rows.

    `labels` [N] int64 in 0..K-1; `centroids` [K, D] float32, the means of the rows with each label; `inertia`, the sum
    of squared distances of the rows to the centroid of their label.
    """

    labels: Tensor
    centroids: Tensor
    inertia: float
