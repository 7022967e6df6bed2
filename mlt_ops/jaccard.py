"""Sparse k-reciprocal Jaccard distances: the pairs that a clustering can use, and no N x N array."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlt_ops._arguments import as_count, as_number
from mlt_ops._inputs import as_features, as_neighbors
from mlt_ops._library import has_extension
from mlt_ops._sparse import (
    Csr,
    build_rows,
    fake_rows,
    mirror,
    neighborhood_order,
    renumbered,
    require_kernels,
    transpose,
)
from mlt_ops.expand_query import unchecked_expand_query
from mlt_ops.k_reciprocal import Window, neighbors_needed, unchecked_k_reciprocal
from mlt_ops.knn import knn
from mlt_ops.structures import Neighbors, SparseDistance


def jaccard_distance(
    features: Tensor,
    *,
    max_distance: float,
    k1: int = 30,
    k2: int = 6,
    neighbors: Neighbors | tuple[Tensor, Tensor] | None = None,
    window: Window = "clustering",
    scale: Tensor | None = None,
    max_memory: int | None = None,
) -> SparseDistance:
    """Measure how far the neighbourhoods of rows differ, for all pairs up to `max_distance`.

    With V' the rows of `k_reciprocal`, expanded by `expand_query`:
    J_ij = 1 - s / (2 - s), s = sum over l of min(V'_il, V'_jl), in float32 and in one order for all pairs, which the
    neighbour lists alone decide. So J is symmetric bit for bit and does not depend on the number of threads; given one
    neighbour list, CPU and CUDA shall agree likewise (not yet run on a GPU). At work, rows are called by their places
    in that order (`neighborhood_order`), so that what belongs together lies together in memory. Exact: no pair is
    missed. With n entries per row of V' and c per column the time after the neighbour search is O(N (k1^2 + n c)) and
    the memory O(N n + nnz), beside the features and neighbours.

    Args:
        features: [N, D] rows, any floating dtype; computed in float32. Pass unit rows for the papers' convention.
        max_distance: largest distance that is stored, above 0; cluster at any eps up to it. At 1 or more all pairs with
            something in common are stored, so that `to_dense()` is the full matrix.
        k1: neighbours in the full window, at least 1 (`k_reciprocal`). More than N act as N.
        k2: rows in the mean of `expand_query`, at least 1 and at most the number of neighbours.
        neighbors: squared distances and indices [N, k] with k >= max(window, k2), each row itself first. None: `knn`.
        window: "clustering" or "reranking", see `k_reciprocal`.
        scale: [N] positive, divides d^2 of each row. None: 1.
        max_memory: working memory of the neighbour search in bytes; not used when neighbours are given.

    Returns:
        SparseDistance on the features' device. The diagonal is 0 and stored, as are pairs of equal neighbourhoods;
        pairs with nothing in common are at distance 1 and never stored. Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite inputs, too few neighbours, differing devices, a parameter out of range.
        RuntimeError: the extension is missing or lacks CUDA kernels.

    Source: Zhong et al., CVPR 2017, equations 2-10, as SpCL (NeurIPS 2020) and its successors cluster with it.
    """
    max_distance = as_number(max_distance, "jaccard_distance", "max_distance")
    if not (math.isfinite(max_distance) and max_distance > 0):
        raise ValueError(f"jaccard_distance: max_distance must be positive and finite, got {max_distance}.")
    k2 = as_count(k2, "jaccard_distance", "k2")
    width = neighbors_needed(k1, k2, window, "jaccard_distance")
    rows = as_features(features, "jaccard_distance")
    require_kernels("jaccard_distance", rows.device)
    if neighbors is None:
        neighbors = knn(rows, min(width, len(rows)), max_memory=max_memory) if len(rows) else _no_neighbors(rows)
    found = as_neighbors(neighbors, len(rows), rows.device, width, "jaccard_distance")
    order = neighborhood_order(found.index)
    csr = expanded_sets(rows, order, renumbered(found, order), k1, k2, window, scale)
    lower = jaccard_rows(csr, transpose(*csr, len(rows)), max_distance, 0, len(rows))
    return SparseDistance.unchecked(*mirror(*lower, order), len(rows), max_distance)


def _no_neighbors(rows: Tensor) -> Neighbors:
    return Neighbors(rows.new_empty(0, 1), torch.empty(0, 1, dtype=torch.int64, device=rows.device))


def expanded_sets(
    rows: Tensor, order: Tensor, found: Neighbors, k1: int, k2: int, window: Window, scale: Tensor | None
) -> Csr:
    """V': the weighted k-reciprocal sets after local query expansion.

    Args:
        rows: [N, D] float32.
        order: see `unchecked_k_reciprocal`.
        found: as `as_neighbors` returns them, numbered as the result.
        k1: neighbours in the full window.
        k2: rows in the mean.
        window: as published code slices.
        scale: [N] or None.
    """
    sets = unchecked_k_reciprocal(rows, order, found, k1, window, scale)
    return unchecked_expand_query(sets, found, k2, len(rows))


def jaccard_rows(csr: Csr, columns: Csr, max_distance: float, begin: int, end: int) -> Csr:
    """Distances of the rows begin..end to the rows up to themselves that have entries in `columns`.

    Args:
        csr: V'.
        columns: V' by columns, or some of its first rows.
        max_distance: largest distance to store.
        begin: first row.
        end: row after the last.
    """

    def build(first: int, last: int) -> Csr:
        return torch.ops.mlt_ops.jaccard(*csr, *columns, max_distance, first, last)

    return build_rows(build, begin, end, csr[0].device)


if has_extension():

    @torch.library.register_fake("mlt_ops::jaccard")
    def _fake_jaccard(
        rowptr: Tensor,
        col: Tensor,
        value: Tensor,
        colptr: Tensor,
        row: Tensor,
        row_value: Tensor,
        max_distance: float,
        begin: int,
        end: int,
    ) -> Csr:
        return fake_rows(value, end - begin)
