"""Exact k nearest neighbours by squared Euclidean distance, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._inputs import as_features, full_precision, rows_per_chunk
from mlt_ops.structures import Neighbors

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_PAIRS_IN_CACHE = 512  # pairs that a CPU measures at a time; 30 times more of 2048 dimensions took 4 times longer


def knn(features: Tensor, k: int, *, queries: Tensor | None = None, max_memory: int | None = None) -> Neighbors:
    """Find the k nearest rows of each query.

    Matrix products propose the candidates; whatever lies within their rounding error of the k-th is measured again,
    as the sum of squared differences. So equal rows are at distance 0 exactly, d(a, b) is d(b, a), ties are true ties,
    and the result depends neither on `max_memory` nor on the number of threads. Time O(Q * N * D).

    Args:
        features: [N, D] rows to search, any floating dtype; computed in float32. Pass unit rows for d^2 = 2 - 2 cos.
        k: number of neighbours, 1..N.
        queries: [Q, D] rows to search for. None: the features themselves; each row is then its own first neighbour,
            also where an equal row has a lower index.
        max_memory: working memory in bytes, apart from the result and one copy of the features; None: 1 GiB.

    Returns:
        Neighbors on the features' device, sorted by (distance, index). Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed, non-finite or huge inputs, differing D or device, k out of range, too little memory.
    """
    rows = as_features(features, "knn")
    targets = rows if queries is None else as_features(queries, "knn", "queries")
    if targets.shape[1] != rows.shape[1] or targets.device != rows.device:
        raise ValueError(
            f"knn: queries and features must share D and device, got D={targets.shape[1]} on {targets.device} "
            f"and D={rows.shape[1]} on {rows.device}."
        )
    if not 1 <= k <= len(rows):
        raise ValueError(f"knn: k must be between 1 and the number of features ({len(rows)}), got {k}.")
    # Per candidate: distance, mask, pair of indices, exact distance and two sorts, if every row were a candidate.
    chunk = rows_per_chunk(64 * len(rows), max_memory, "knn")
    pairs = rows_per_chunk(12 * rows.shape[1], max_memory, "knn")
    pairs = pairs if rows.is_cuda else min(pairs, _PAIRS_IN_CACHE)

    distance = rows.new_empty(len(targets), k)
    index = torch.empty(len(targets), k, dtype=torch.int64, device=rows.device)
    with full_precision(rows.device):
        center = rows.mean(dim=0)
        base = rows - center  # distances stay the same, but rounding errors grow with the norms
        norms = base.square().sum(dim=1)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            itself = torch.arange(len(targets), device=rows.device)[part] if queries is None else None
            candidates = _propose(targets[part] - center, base, norms, k, itself)
            row, column = candidates.nonzero(as_tuple=True)
            exact = _measure(targets[part], rows, row, column, pairs)
            chosen = _nearest(exact, row, column, candidates.sum(dim=1), k, itself)
            distance[part], index[part] = exact[chosen], column[chosen]
    return Neighbors(distance, index)


def _propose(targets: Tensor, base: Tensor, norms: Tensor, k: int, itself: Tensor | None) -> Tensor:
    """Mask [Q, N] of the rows that can be among the k nearest, given the rounding error of the matrix product."""
    target_norms = targets.square().sum(dim=1, keepdim=True)
    approximate = torch.addmm(norms, targets, base.T, alpha=-2).add_(target_norms)
    if itself is not None:
        approximate[torch.arange(len(targets), device=targets.device), itself] = -torch.inf
    kth = approximate.topk(k, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    # |approximate - exact| <= error: three float32 sums of D products (Higham, Accuracy and Stability, section 3.1),
    # and the subtraction of the center. The k-th is wrong by one error at most, and so is each row below it.
    error = (4 * base.shape[1] + 16) * _UNIT_ROUNDOFF * (target_norms + norms.max())
    return approximate <= kth + 2 * error


def _measure(targets: Tensor, rows: Tensor, row: Tensor, column: Tensor, chunk: int) -> Tensor:
    """Squared distances [P] of the pairs (targets[row], rows[column]), by differences."""
    parts = zip(row.split(chunk), column.split(chunk))
    return torch.cat([(targets[i] - rows[j]).square_().sum(dim=1) for i, j in parts])


def _nearest(exact: Tensor, row: Tensor, column: Tensor, count: Tensor, k: int, itself: Tensor | None) -> Tensor:
    """Positions [Q, k] of each row's k nearest pairs; the pairs come sorted by (row, column)."""
    key = exact if itself is None else exact.masked_fill(column == itself[row], -1.0)
    order = key.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]  # two stable sorts: by row, then distance, then column
    first = count.cumsum(0) - count
    return order[first[:, None] + torch.arange(k, device=exact.device)]
