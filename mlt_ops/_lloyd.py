"""Lloyd's iterations of several runs over the same rows, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlt_ops._inputs import rows_per_chunk
from mlt_ops._search import by_faiss, squared_norms
from mlt_ops.segment_mean import unchecked_segment_mean
from mlt_ops.structures import KMeansResult

Backend = Literal["torch", "faiss"]
_TOLERANCE = 1e-4  # of the mean variance of the features: stop when all centroids together move less (scikit-learn's)


class Problem(NamedTuple):
    """The rows to cluster and what all runs need of them.

    Args:
        centred: [N, D] rows minus `center`: the same distances, but smaller norms, with which rounding errors grow.
        center: [D], their mean.
        tolerance: centroids that move less, all squared distances together, have settled.
    """

    centred: Tensor
    center: Tensor
    tolerance: float

    @classmethod
    def of(cls, rows: Tensor) -> Problem:
        """From rows as they are.

        Args:
            rows: [N, D] float32.
        """
        center = rows.mean(dim=0)
        centred = rows - center
        variance = float(squared_norms(centred).sum(dtype=torch.float64)) / max(rows.numel(), 1)
        return cls(centred, center, _TOLERANCE * variance)

    def solve(self, starts: Sequence[Tensor], max_iter: int, backend: Backend) -> list[KMeansResult]:
        """A run from each of several sets of centroids. One product serves all that have not settled.

        Args:
            starts: R tensors [K_r, D], centred.
            max_iter: iterations per run, at least 1.
            backend: who finds the nearest centroids.
        """
        runs = [_Run(start) for start in starts]
        for _ in range(max_iter):
            moving = [run for run in runs if not run.settled]
            if not moving:
                break
            centroids = [run.centroids for run in moving]
            nearest = _assign(self.centred, centroids, backend)
            _fill_empty_clusters(self.centred, nearest, centroids)
            moved = [run.move(labels, self) for run, labels in zip(moving, nearest)]
            for run, distance in zip(moving, torch.stack(moved).tolist()):  # a GPU is waited for once, not for each run
                run.settled = distance <= self.tolerance
        return [run.result(self) for run in runs]


class _Run:
    """One run of Lloyd's iterations; its centroids are the means of its labels once it has moved.

    Args:
        start: [K, D], centred as the rows are.
    """

    def __init__(self, start: Tensor) -> None:
        self.centroids = start
        self.labels = torch.empty(0, dtype=torch.int64, device=start.device)
        self.settled = False

    def move(self, labels: Tensor, problem: Problem) -> Tensor:
        """Take the means of the rows that are nearest now; returns by how much, all squared distances together."""
        means, count = unchecked_segment_mean(problem.centred, labels, len(self.centroids))
        before, self.labels = self.centroids, labels
        self.centroids = torch.where(count.unsqueeze(1) > 0, means, before)
        return (self.centroids - before).square().sum(dtype=torch.float64)

    def result(self, problem: Problem) -> KMeansResult:
        """Labels, centroids where the rows were, and inertia."""
        inertia = _inertia(problem.centred, self.labels, self.centroids)
        return KMeansResult(self.labels, self.centroids + problem.center, inertia)


def _assign(rows: Tensor, centroids: Sequence[Tensor], backend: Backend) -> list[Tensor]:
    """For each run's centroids: the nearest of each row, the lowest-numbered among equals."""
    together, sizes = torch.cat(list(centroids)), [len(each) for each in centroids]
    chunk = rows_per_chunk(4 * len(together), None, "kmeans", together.numel(), rows.device)
    if backend == "faiss":
        return [by_faiss(rows, each, 1, chunk)[1].squeeze(1) for each in centroids]
    nearest = [torch.empty(len(rows), dtype=torch.int64, device=rows.device) for _ in centroids]
    half_norms = together.square().sum(dim=1).mul_(0.5)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - x.c), and |x|^2 does not matter for the choice of c
        products = torch.addmm(half_norms, rows[part], together.T, alpha=-1).split(sizes, dim=1)
        for labels, product in zip(nearest, products):
            labels[part] = product.argmin(dim=1)
    return nearest


def _fill_empty_clusters(rows: Tensor, nearest: Sequence[Tensor], centroids: Sequence[Tensor]) -> None:
    """Give each empty cluster of each run, in place, the farthest row whose own cluster keeps another one."""
    counts = [_count(labels, len(each)) for labels, each in zip(nearest, centroids)]
    wanting = torch.stack([count.min() for count in counts]).eq(0).tolist()
    for labels, each, count, wants in zip(nearest, centroids, counts, wanting):
        if wants:
            _fill(labels, _distance_to_own(rows, labels, each), count.tolist())


def _count(labels: Tensor, num_clusters: int) -> Tensor:
    """`torch.bincount`, which waits for a GPU."""
    return labels.new_zeros(num_clusters).scatter_add_(0, labels, torch.ones_like(labels))


def _fill(labels: Tensor, distance: Tensor, count: list[int]) -> None:
    empty = [cluster for cluster, members in enumerate(count) if members == 0]
    farthest = distance.argsort(descending=True, stable=True)
    owners = labels[farthest].tolist()
    spread = int((distance > 0).sum())
    for row, owner in zip(farthest[:spread].tolist(), owners):
        if count[owner] > 1:
            count[owner] -= 1
            labels[row] = empty.pop(0)
            if not empty:
                return


def _distance_to_own(rows: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """[N] float64, by differences: products could not tell rows that are almost equal, and squares underflow."""
    parts = _differences(rows, labels, centroids)
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])


def _inertia(rows: Tensor, labels: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the own centroid, by differences."""
    return sum(float(part.square_().sum(dtype=torch.float64)) for part in _differences(rows, labels, centroids))


def _differences(rows: Tensor, labels: Tensor, centroids: Tensor) -> Iterator[Tensor]:
    """Rows less their own centroids, some rows at a time."""
    chunk = rows_per_chunk(8 * rows.shape[1], None, "kmeans")
    return (part - centroids[own] for part, own in zip(rows.split(chunk), labels.split(chunk)))
