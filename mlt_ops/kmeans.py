"""K-Means: k-means++ seeding and Lloyd's iterations, in bounded memory."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mlt_ops._inputs import as_features, full_precision, rows_per_chunk
from mlt_ops._search import by_faiss
from mlt_ops.segment_mean import unchecked_segment_mean
from mlt_ops.structures import KMeansResult

Backend = Literal["torch", "faiss"]
_SEED_DIM = 512  # seeding passes K times over the rows; a random projection to so many keeps distances to about 6 %
_TOLERANCE = 1e-4  # of the mean variance of the features: stop when all centroids together move less (scikit-learn's)


def kmeans(
    features: Tensor,
    num_clusters: int,
    *,
    seed: int = 0,
    num_restarts: int = 1,
    max_iter: int = 300,
    init: Tensor | None = None,
    backend: Backend = "torch",
) -> KMeansResult:
    """Cluster rows by K-Means.

    Seeding is greedy k-means++; iterations end when no label changes or the centroids move less than 1e-4 of the
    features' variance. A cluster that runs empty takes the row that is farthest from its centroid. Random numbers are
    drawn on the CPU, so each device starts alike, and centroids are summed in one fixed order; a row that is as near to
    two centroids as rounding can tell may still go either way on another device. Time O(N * D * K) per iteration;
    memory: a copy of the features, and chunks of at most 1 GiB.

    Args:
        features: [N, D], any floating dtype; computed in float32.
        num_clusters: K, 1..N.
        seed: of the seeding.
        num_restarts: independent runs, of which the one of least inertia is returned.
        max_iter: iterations per run, at least 1.
        init: [K, D] centroids to start from instead of seeding, for example rows from `kmeans_plus_plus`.
        backend: who finds the nearest centroids: "torch", or "faiss" (CPU only), with the same labels up to rounding.

    Returns:
        Labels, centroids and inertia, on the features' device. Clusters are empty only if fewer than K rows differ.
        Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite inputs, K out of range, `init` of another shape or with several restarts, an
            unknown backend or "faiss" for features on a GPU.
        ModuleNotFoundError: backend "faiss" without faiss.

    Source: Lloyd, IEEE Trans. Information Theory 28(2), 1982; Arthur and Vassilvitskii, SODA 2007.
    """
    rows = as_features(features, "kmeans")
    _check_num_clusters(rows, num_clusters, "kmeans")
    if backend not in ("torch", "faiss") or (backend == "faiss" and rows.is_cuda):
        raise ValueError(f"kmeans: backend must be 'torch', or 'faiss' on the CPU, got {backend!r} on {rows.device}.")
    if num_restarts < 1 or max_iter < 1:
        raise ValueError(f"kmeans: num_restarts and max_iter must be >= 1, got {num_restarts} and {max_iter}.")
    if init is not None:
        init = as_features(init, "kmeans", "init").to(rows.device)
        if init.shape != (num_clusters, rows.shape[1]):
            raise ValueError(f"kmeans: init must be {[num_clusters, rows.shape[1]]}, got {list(init.shape)}.")
        if num_restarts > 1:
            raise ValueError(f"kmeans: every run from init is the same; num_restarts must be 1, got {num_restarts}.")
    with full_precision(rows.device):
        center = rows.mean(dim=0)
        centred = rows - center  # distances stay the same, but rounding errors grow with the norms
        norms = centred.square().sum(dim=1)
        tolerance = _TOLERANCE * float(norms.sum(dtype=torch.float64)) / max(rows.numel(), 1)
        generator = torch.Generator().manual_seed(seed)
        runs = []
        for _ in range(num_restarts):
            start = centred[_seed(centred, num_clusters, generator)] if init is None else init - center
            labels, centroids = _lloyd(centred, norms, start, max_iter, tolerance, backend)
            runs.append(KMeansResult(labels, centroids + center, _inertia(centred, labels, centroids)))
    return min(runs, key=lambda run: run.inertia)


def kmeans_plus_plus(features: Tensor, num_clusters: int, *, seed: int = 0) -> Tensor:
    """Choose rows that are spread like the data: the start of K-Means.

    Each next row is the best of 2 + log(K) draws with probability proportional to the squared distance to the nearest
    row chosen so far; above 1024 dimensions the distances are those of a random projection to 512. A prefix of the
    result is a seeding too, so several K can share one:
    `kmeans(features, 600, init=features[kmeans_plus_plus(features, 800)[:600]])`.

    Args:
        features: [N, D], any floating dtype; computed in float32.
        num_clusters: K, 1..N.
        seed: of the draws, which are made on the CPU.

    Returns:
        Row indices [K] int64 on the features' device, in the order in which they were chosen.

    Raises:
        ValueError: malformed or non-finite features, K out of range.

    Source: Arthur and Vassilvitskii, SODA 2007; the greedy draws are those of scikit-learn.
    """
    rows = as_features(features, "kmeans_plus_plus")
    _check_num_clusters(rows, num_clusters, "kmeans_plus_plus")
    with full_precision(rows.device):
        return _seed(rows - rows.mean(dim=0), num_clusters, torch.Generator().manual_seed(seed))


def _check_num_clusters(rows: Tensor, num_clusters: int, op: str) -> None:
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(
            f"{op}: num_clusters must be between 1 and the number of rows ({len(rows)}), got {num_clusters}."
        )


def _seed(rows: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ without a wait for the GPU: all random numbers are drawn beforehand."""
    trials = 2 + int(math.log(num_clusters))
    if rows.shape[1] > 2 * _SEED_DIM:
        projection = torch.randn(rows.shape[1], _SEED_DIM, generator=generator)
        rows = rows @ projection.to(rows.device)
    norms = rows.square().sum(dim=1)
    first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    draws = torch.rand(num_clusters, trials, generator=generator, dtype=torch.float64).to(rows.device)
    chosen = [first]
    closest = _squared_distance(rows[first], rows, norms).squeeze(0).index_fill_(0, first, 0.0)
    for draw in draws[1:]:
        mass = closest.cumsum(0, dtype=torch.float64)
        drawn = torch.searchsorted(mass, draw * mass[-1], right=True).clamp_(max=len(rows) - 1)
        nearer = torch.minimum(closest, _squared_distance(rows[drawn], rows, norms))
        best = nearer.sum(dim=1, dtype=torch.float64).argmin(dim=0, keepdim=True)
        chosen.append(drawn[best])
        closest = nearer[best].squeeze(0).index_fill_(0, chosen[-1], 0.0)
    return torch.cat(chosen)


def _squared_distance(points: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
    """[P, N] from P points, of the norms' magnitude, to all rows."""
    distance = torch.addmm(norms, points, rows.T, alpha=-2)
    return distance.add_(points.square().sum(dim=1, keepdim=True)).clamp_(min=0)


def _lloyd(
    rows: Tensor, norms: Tensor, centroids: Tensor, max_iter: int, tolerance: float, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Iterate until it settles; the centroids returned are the means of the labels returned."""
    num_clusters = len(centroids)
    previous = torch.full_like(norms, -1, dtype=torch.int64)
    for _ in range(max_iter):
        labels, distance = _assign(rows, norms, centroids, backend)
        _fill_empty_clusters(labels, distance, num_clusters)
        if torch.equal(labels, previous):
            break
        means, count = unchecked_segment_mean(rows, labels, num_clusters)
        moved, centroids = centroids, torch.where(count.unsqueeze(1) > 0, means, centroids)
        previous = labels
        if float((centroids - moved).square().sum(dtype=torch.float64)) <= tolerance:
            break
    return previous, centroids


def _assign(rows: Tensor, norms: Tensor, centroids: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row, the lowest-numbered among equals, and the squared distance to it."""
    chunk = rows_per_chunk(4 * len(centroids), None, "kmeans", centroids.numel())
    if backend == "faiss":
        distance, labels = by_faiss(rows, centroids, 1, chunk)
        return labels.squeeze(1), distance.squeeze(1)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distance = torch.empty_like(norms)
    half_norms = centroids.square().sum(dim=1).mul_(0.5)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - x.c), and |x|^2 does not matter for the choice of c
        lowest, labels[part] = torch.addmm(half_norms, rows[part], centroids.T, alpha=-1).min(dim=1)
        distance[part] = lowest.mul_(2).add_(norms[part]).clamp_(min=0)
    return labels, distance


def _fill_empty_clusters(labels: Tensor, distance: Tensor, num_clusters: int) -> None:
    """Give each empty cluster, in place, the farthest row whose own cluster keeps another one."""
    count = torch.bincount(labels, minlength=num_clusters).tolist()
    empty = [cluster for cluster, members in enumerate(count) if members == 0]
    if not empty:
        return
    farthest = distance.argsort(descending=True, stable=True)
    owners = labels[farthest].tolist()
    spread = int((distance > 0).sum())
    for row, owner in zip(farthest[:spread].tolist(), owners):
        if count[owner] > 1:
            count[owner] -= 1
            labels[row] = empty.pop(0)
            if not empty:
                return


def _inertia(rows: Tensor, labels: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the own centroid, by differences."""
    chunk = rows_per_chunk(8 * rows.shape[1], None, "kmeans")
    parts = zip(rows.split(chunk), labels.split(chunk))
    return sum(float((x - centroids[y]).square_().sum(dtype=torch.float64)) for x, y in parts)
