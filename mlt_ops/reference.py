"""The operators in plain NumPy, slow and short, as they are defined: the oracles of the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


def knn(features: Floats, k: int, queries: Floats | None = None) -> tuple[Floats, Integers]:
    """Squared Euclidean distances [Q, k] and row indices [Q, k], sorted by (itself first, distance, index).

    Args:
        features: [N, D].
        k: number of neighbours.
        queries: [Q, D]; None: the features.
    """
    targets = features if queries is None else queries
    distances, indices = [], []
    for i, target in enumerate(targets):
        distance = ((features.astype(np.float64) - target.astype(np.float64)) ** 2).sum(axis=1)
        others = np.arange(len(features)) != i if queries is None else np.ones(len(features), dtype=bool)
        nearest = np.lexsort((np.arange(len(features)), distance, others))[:k]
        distances.append(distance[nearest])
        indices.append(nearest)
    return np.array(distances), np.array(indices)


def segment_mean(features: Floats, labels: Integers, num_segments: int) -> tuple[Floats, Integers]:
    """Mean [K, D] and number [K] of the rows with each label; zeros where there is none.

    Args:
        features: [N, D].
        labels: [N], -1 for rows that belong nowhere.
        num_segments: K.
    """
    count = np.array([(labels == segment).sum() for segment in range(num_segments)], dtype=np.int64)
    mean = np.zeros((num_segments, features.shape[1]))
    for segment in np.flatnonzero(count):
        mean[segment] = features[labels == segment].astype(np.float64).mean(axis=0)
    return mean, count


def kmeans(features: Floats, init: Floats, max_iter: int = 300) -> tuple[Integers, Floats, float]:
    """Lloyd's iterations from given centroids until no label changes: labels, centroids, inertia.

    Args:
        features: [N, D].
        init: [K, D]; the start must not let a cluster run empty.
        max_iter: iterations at most.
    """
    centroids: Floats = init.astype(np.float64)
    labels = np.full(len(features), -1, dtype=np.int64)
    for _ in range(max_iter):
        distance = ((features[:, None, :] - centroids[None]) ** 2).sum(axis=2)
        if np.array_equal(labels, distance.argmin(axis=1)):
            break
        labels = distance.argmin(axis=1)
        centroids, _ = segment_mean(features, labels, len(init))
    return labels, centroids, float(((features - centroids[labels]) ** 2).sum())
