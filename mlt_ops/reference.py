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


def _mutual(index: Integers, i: int, width: int) -> list[int]:
    """The first `width` neighbours of i that have i among their first `width`."""
    return [int(j) for j in index[i, :width] if i in index[j, :width]]


def k_reciprocal(
    features: Floats,
    distance: Floats,
    index: Integers,
    k1: int,
    window: str = "clustering",
    scale: Floats | None = None,
) -> Floats:
    """Dense weights [N, N] of the expanded k-reciprocal sets; each row sums to 1.

    Args:
        features: [N, D].
        distance: [N, k] squared distances of the neighbours.
        index: [N, k] neighbours, nearest first.
        k1: neighbours in the full window.
        window: "clustering" or "reranking", how published code slices its lists.
        scale: [N], divides the squared distances of each row.
    """
    full = k1 if window == "clustering" else k1 + 1
    half = min(int(np.around(k1 / 2)) + 1, full)
    weights = np.zeros((len(features), len(features)))
    for i in range(len(features)):
        own = _mutual(index, i, full)
        expanded = set(own) | {i}
        for j in own:
            candidates = _mutual(index, j, half)
            if len(set(candidates) & set(own)) > 2 / 3 * len(set(candidates)):
                expanded |= set(candidates)
        members = sorted(expanded)
        squared = ((features[members].astype(np.float64) - features[i].astype(np.float64)) ** 2).sum(axis=1)
        for position, member in enumerate(members):
            if member in index[i]:
                squared[position] = distance[i, list(index[i]).index(member)]
        weight = np.exp(-squared / (1.0 if scale is None else scale[i]))
        weights[i, members] = weight / weight.sum()
    return weights


def expand_query(rows: Floats, index: Integers, k2: int) -> Floats:
    """Mean [N, C] of the rows of the first k2 neighbours.

    Args:
        rows: [N, C].
        index: [N, k].
        k2: number of rows in the mean.
    """
    return rows[index[:, :k2]].mean(axis=1)


def jaccard(rows: Floats) -> Floats:
    """Jaccard distances [N, N] of rows that each sum to 1.

    Args:
        rows: [N, C].
    """
    overlap = np.array([np.minimum(row, rows).sum(axis=1) for row in rows]).reshape(len(rows), len(rows))
    distance = np.maximum(1 - overlap / (2 - overlap), 0)
    np.fill_diagonal(distance, 0)
    return distance


def jaccard_distance(features: Floats, k1: int = 30, k2: int = 6) -> Floats:
    """Dense k-reciprocal Jaccard distances [N, N] in the convention of clustering.

    Args:
        features: [N, D].
        k1: neighbours in the full window.
        k2: rows in the mean.
    """
    distance, index = knn(features, min(max(k1, k2), len(features)))
    return jaccard(expand_query(k_reciprocal(features, distance, index, k1), index, k2))


def dbscan(distance: Floats, eps: float, min_samples: int) -> Integers:
    """Labels [N]: clusters are grown from the lowest core point that has none, -1 is noise.

    Args:
        distance: [N, N]; each point is its own neighbour.
        eps: largest distance of neighbours.
        min_samples: neighbours, itself included, that make a core point.
    """
    near = (distance <= eps) | np.eye(len(distance), dtype=bool)
    core = near.sum(axis=1) >= min_samples
    labels = np.full(len(distance), -1, dtype=np.int64)
    for start in np.flatnonzero(core):
        if labels[start] >= 0:
            continue
        label, todo = np.max(labels) + 1, [start]
        while todo:
            point = todo.pop()
            if labels[point] < 0:
                labels[point] = label
                todo += list(np.flatnonzero(near[point])) if core[point] else []
    return labels


def largest_distance(features: Floats) -> Floats:
    """Each row's largest squared distance [N] to any row.

    Args:
        features: [N, D].
    """
    return np.array([((features - row) ** 2).sum(axis=1).max() for row in features])


def rerank(query: Floats, gallery: Floats, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Floats:
    """Re-ranked distances [Q, G].

    Args:
        query: [Q, D].
        gallery: [G, D].
        k1: neighbours in the full window.
        k2: rows in the mean.
        lambda_value: share of the original distance.
    """
    features = np.concatenate([gallery, query])
    distance, index = knn(features, len(features))
    scale = largest_distance(features)
    weights = k_reciprocal(features, distance, index, k1, "reranking", scale)
    mixed = (1 - lambda_value) * jaccard(expand_query(weights, index, k2))
    for i in range(len(features)):
        mixed[i, index[i]] += lambda_value * distance[i] / scale[i]
    return mixed[len(gallery) :, : len(gallery)]


def count_closer(
    distance: Floats, reference: tuple[Integers, Integers], excluded: tuple[Integers, Integers]
) -> Integers:
    """Number [M] of columns before each reference column in a stable sort of its row, excluded ones left out.

    Args:
        distance: [Q, G].
        reference: row pointers [Q + 1] and columns [M].
        excluded: likewise, the columns that do not count.
    """
    counts = []
    for row, values in enumerate(distance):
        wanted, left_out = (col[rowptr[row] : rowptr[row + 1]] for rowptr, col in (reference, excluded))
        order = list(np.argsort(values, kind="stable"))
        counts += [sum(other not in left_out for other in order[: order.index(col)]) for col in wanted]
    return np.array(counts, dtype=np.int64)
