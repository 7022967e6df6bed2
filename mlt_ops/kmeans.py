"""K-Means: k-means++ seeding and Lloyd's iterations, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlt_ops._arguments import as_integer
from mlt_ops._inputs import DEFAULT_MEMORY, as_features, full_precision, rows_per_chunk
from mlt_ops._lloyd import Backend, Problem
from mlt_ops._search import squared_norms
from mlt_ops.structures import KMeansResult

_CPU = torch.device("cpu")  # where random numbers are drawn, whatever the caller's default device
_SEED_DIM = 512  # seeding passes K times over the rows; a random projection to so many keeps distances to about 6 %


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

    Seeding is greedy k-means++; iterations end when the centroids move less than 1e-4 of the features' variance. A
    cluster that runs empty takes the row that is farthest from its centroid. Random numbers are drawn on the CPU, so
    each device starts alike, and centroids are summed in one fixed order; a row that is as near to two centroids as
    rounding can tell may still go either way on another device. Runs go side by side: one product per chunk of rows
    serves those that have not settled. Time O(N * D * K) per iteration of a run; memory: a copy of the features, and at
    most 1 GiB each (or what one run takes) for the runs' centroids and for products.

    Args:
        features: [N, D], any floating dtype; computed in float32.
        num_clusters: K, 1..N.
        seed: of the seeding.
        num_restarts: independent runs, of which the one of least inertia is returned.
        max_iter: iterations per run, at least 1.
        init: [K, D] centroids to start from instead of seeding, on any device, for example rows from
            `kmeans_plus_plus`.
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
    num_clusters = as_integer(num_clusters, "kmeans", "num_clusters")
    _check(rows, [num_clusters], num_restarts, max_iter, backend, "kmeans")
    if init is None:
        return _best_runs(rows, [num_clusters], _generators(seed, 1, "kmeans"), num_restarts, max_iter, backend)[0]
    start = as_features(init, "kmeans", "init").to(rows.device)
    if start.shape != (num_clusters, rows.shape[1]):
        raise ValueError(f"kmeans: init must be {[num_clusters, rows.shape[1]]}, got {list(start.shape)}.")
    if num_restarts > 1:
        raise ValueError(f"kmeans: every run from init is the same; num_restarts must be 1, got {num_restarts}.")
    with full_precision(rows.device):
        problem = Problem.of(rows)
        return problem.solve([start - problem.center], max_iter, backend)[0]


def kmeans_mixture(
    features: Tensor,
    num_clusters: Sequence[int],
    *,
    seed: int = 0,
    num_restarts: int = 1,
    max_iter: int = 300,
    backend: Backend = "torch",
) -> list[KMeansResult]:
    """Cluster the same rows into several numbers of clusters, as a mixture of labels needs it.

    Group g is `kmeans(features, num_clusters[g], seed=seed + g, ...)`, but each pass over the rows, whether of seeding
    or of Lloyd's iterations, serves all groups and restarts at once. The random draws are the same, products of another
    size may round differently: a row that is as near to two centroids as rounding can tell may go either way.

    Args:
        features: [N, D], see `kmeans`.
        num_clusters: K of each group, 1..N.
        seed: of the first group.
        num_restarts: see `kmeans`, for each group.
        max_iter: see `kmeans`.
        backend: see `kmeans`.

    Raises:
        ValueError: as `kmeans`.
        ModuleNotFoundError: backend "faiss" without faiss.
    """
    rows = as_features(features, "kmeans_mixture")
    try:
        numbers = list(num_clusters)
    except TypeError:
        raise TypeError(f"kmeans_mixture: num_clusters must be a sequence, got {num_clusters!r}.") from None
    num_clusters = [as_integer(number, "kmeans_mixture", "num_clusters") for number in numbers]
    if not num_clusters:
        raise ValueError(f"kmeans_mixture: wanted at least one number of clusters, got {num_clusters}.")
    _check(rows, num_clusters, num_restarts, max_iter, backend, "kmeans_mixture")
    generators = _generators(seed, len(num_clusters), "kmeans_mixture")
    return _best_runs(rows, num_clusters, generators, num_restarts, max_iter, backend)


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
    num_clusters = as_integer(num_clusters, "kmeans_plus_plus", "num_clusters")
    _check_num_clusters(rows, num_clusters, "kmeans_plus_plus")
    with full_precision(rows.device):
        return _seed(rows - rows.mean(dim=0), [num_clusters], _generators(seed, 1, "kmeans_plus_plus"))[0]


def _generators(seed: int, number: int, op: str) -> list[torch.Generator]:
    """Of a seed and those after it; 64 bits of them count, as for PyTorch."""
    first = as_integer(seed, op, "seed", bits=64)
    return [torch.Generator(_CPU).manual_seed((first + i) % 2**64) for i in range(number)]


def _check_num_clusters(rows: Tensor, num_clusters: int, op: str) -> None:
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(
            f"{op}: num_clusters must be between 1 and the number of rows ({len(rows)}), got {num_clusters}."
        )


def _check(
    rows: Tensor, num_clusters: Sequence[int], num_restarts: int, max_iter: int, backend: Backend, op: str
) -> None:
    for number in num_clusters:
        _check_num_clusters(rows, number, op)
    if backend not in ("torch", "faiss") or (backend == "faiss" and rows.is_cuda):
        raise ValueError(f"{op}: backend must be 'torch', or 'faiss' on the CPU, got {backend!r} on {rows.device}.")
    if as_integer(num_restarts, op, "num_restarts") < 1 or as_integer(max_iter, op, "max_iter") < 1:
        raise ValueError(f"{op}: num_restarts and max_iter must be >= 1, got {num_restarts} and {max_iter}.")


def _best_runs(
    rows: Tensor,
    num_clusters: Sequence[int],
    generators: Sequence[torch.Generator],
    num_restarts: int,
    max_iter: int,
    backend: Backend,
) -> list[KMeansResult]:
    """For each number of clusters the run of least inertia."""
    side_by_side = max(DEFAULT_MEMORY // (12 * max(num_clusters) * max(rows.shape[1], 1)), 1)
    with full_precision(rows.device):
        problem = Problem.of(rows)
        each = [number for number in num_clusters for _ in range(num_restarts)]
        chosen = _seed(problem.centred, each, [generator for generator in generators for _ in range(num_restarts)])
        runs: list[KMeansResult] = []
        for begin in range(0, len(chosen), side_by_side):
            starts = [problem.centred[seeded] for seeded in chosen[begin : begin + side_by_side]]
            runs += problem.solve(starts, max_iter, backend)
    groups = (runs[begin : begin + num_restarts] for begin in range(0, len(runs), num_restarts))
    return [min(group, key=lambda run: run.inertia) for group in groups]


def _seed(rows: Tensor, num_clusters: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
    """Greedy k-means++ of several runs side by side: each pass over the rows serves as many as memory allows.

    All random numbers are drawn beforehand, so that a GPU is never waited for; run r draws from generators[r].
    """
    if rows.shape[1] > 2 * _SEED_DIM:
        generator = torch.Generator(_CPU).manual_seed(0)
        projection = torch.randn(rows.shape[1], _SEED_DIM, generator=generator, device=_CPU)
        chunk = rows_per_chunk(4 * _SEED_DIM, None, "kmeans", projection.numel(), rows.device)
        projection = projection.to(rows.device)
        rows = torch.cat([part @ projection for part in rows.split(chunk)])
    norms = squared_norms(rows)
    draws = [_draw(len(rows), number, generator) for number, generator in zip(num_clusters, generators, strict=True)]
    runs_per_pass = max(DEFAULT_MEMORY // (12 * max(len(trials[0]) for _, trials in draws) * len(rows)), 1)
    chosen: list[Tensor] = []
    for begin in range(0, len(draws), runs_per_pass):
        some = draws[begin : begin + runs_per_pass]
        first = torch.cat([row for row, _ in some]).to(rows.device)
        together = _choose(rows, norms, first, _padded([trials for _, trials in some]).to(rows.device))
        chosen += [run[:number] for run, number in zip(together, num_clusters[begin:], strict=False)]
    return chosen


def _draw(num_rows: int, num_clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One run's first row [1], and the trials [K, T] for each of its rows as shares of the mass (the first unused)."""
    first = torch.randint(num_rows, (1,), generator=generator, device=_CPU)
    trials = 2 + int(math.log(num_clusters))
    return first, torch.rand(num_clusters, trials, generator=generator, dtype=torch.float64, device=_CPU)


def _padded(trials: list[Tensor]) -> Tensor:
    """[K, R, T] of R runs with up to K rows and T trials; a trial that is missing repeats the run's first."""
    rows, width = max(len(run) for run in trials), max(run.shape[1] for run in trials)
    out = torch.zeros(rows, len(trials), width, dtype=torch.float64, device=_CPU)
    for column, run in zip(out.unbind(1), trials, strict=True):
        column[: len(run)] = run[:, :1]
        column[: len(run), : run.shape[1]] = run
    return out


def _choose(rows: Tensor, norms: Tensor, first: Tensor, draws: Tensor) -> Tensor:
    """Chosen rows [R, K] of R runs from the row that each starts with [R] and its trials [K, R, T]."""
    run = torch.arange(len(first), device=rows.device)
    chosen = [first]
    closest = _squared_distance(rows[first], rows, norms)
    closest[run, first] = 0.0
    for draw in draws[1:]:
        mass = closest.cumsum(1, dtype=torch.float64)
        drawn = torch.searchsorted(mass, draw * mass[:, -1:], right=True).clamp_(max=len(rows) - 1)
        reached = _squared_distance(rows[drawn.flatten()], rows, norms).view(*drawn.shape, -1)
        nearer = torch.minimum(closest.unsqueeze(1), reached)
        best = nearer.sum(dim=2, dtype=torch.float64).argmin(dim=1)
        chosen.append(drawn[run, best])
        closest = nearer[run, best]
        closest[run, chosen[-1]] = 0.0
    return torch.stack(chosen, dim=1)


def _squared_distance(points: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
    """[P, N] from P points, of the norms' magnitude, to all rows."""
    distance = torch.addmm(norms, points, rows.T, alpha=-2)
    return distance.add_(points.square().sum(dim=1, keepdim=True)).clamp_(min=0)
