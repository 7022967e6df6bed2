"""Re-ranking of a gallery by k-reciprocal neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._inputs import as_features, as_neighbors, full_precision, rows_per_chunk
from mlt_ops._sparse import neighborhood_order, require_kernels, transpose
from mlt_ops.jaccard import expanded_sets, jaccard_rows
from mlt_ops.k_reciprocal import window_sizes
from mlt_ops.knn import knn
from mlt_ops.structures import SparseRows


def rerank(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    max_memory: int | None = None,
) -> Tensor:
    """Distances that also count how much the neighbourhoods of query and gallery rows have in common.

    (1 - lambda_value) * J + lambda_value * d^2 / m: J is the Jaccard distance over query and gallery together with
    window "reranking" and scale m, d^2 the squared Euclidean distance, m a query's largest d^2 to any row. Time
    O((Q + G)^2 D); nothing of (Q + G)^2 elements is held, the result has Q * G.

    Args:
        query: [Q, D] rows, any floating dtype; computed in float32. Pass unit rows for the papers' convention.
        gallery: [G, D] rows.
        k1: neighbours in the full window, at least 1; more than there are act as all.
        k2: rows in the mean of the query expansion, at least 1.
        lambda_value: share of the original distance, 0..1.
        max_memory: working memory in bytes for distances, apart from the result; None: 1 GiB.

    Returns:
        Distances [Q, G] float32 on the features' device. Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite inputs, differing D or device, a parameter out of range, too little memory.
        RuntimeError: the extension is missing or lacks CUDA kernels.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
    """
    width = max(window_sizes(k1, "reranking", "rerank")[0], k2)
    if k2 < 1:
        raise ValueError(f"rerank: k2 must be at least 1, got {k2}.")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"rerank: lambda_value must be between 0 and 1, got {lambda_value}.")
    queries, items = as_features(query, "rerank", "query"), as_features(gallery, "rerank", "gallery")
    if queries.shape[1] != items.shape[1] or queries.device != items.device:
        raise ValueError(
            f"rerank: query and gallery must share D and device, got D={queries.shape[1]} on {queries.device} "
            f"and D={items.shape[1]} on {items.device}."
        )
    require_kernels("rerank", items.device)
    num_items, rows = len(items), torch.cat([items, queries])  # gallery first: it is what a query's row can reach
    result = rows.new_empty(len(queries), num_items)
    if not result.numel():
        return result
    neighbors = knn(rows, min(width, len(rows)), max_memory=max_memory)
    found = as_neighbors(neighbors, len(rows), rows.device, width, "rerank")
    scale = _relative_distances(rows, num_items, result, max_memory)
    csr = expanded_sets(rows, found, k1, k2, "reranking", scale, neighborhood_order(found.index))
    of_items = csr[0][: num_items + 1], csr[1][: csr[0][num_items]], csr[2][: csr[0][num_items]]
    columns = transpose(*of_items, len(rows))
    chunk = rows_per_chunk(16 * num_items, max_memory, "rerank")
    for start in range(0, len(queries), chunk):
        end = min(start + chunk, len(queries))
        some = torch.arange(num_items + start, num_items + end, dtype=torch.int32, device=rows.device)
        near = jaccard_rows(csr, columns, 1.0, some, num_items + start)
        jaccard = SparseRows.unchecked(*near, num_items).to_dense(fill=1.0)
        result[start:end].mul_(lambda_value).add_(jaccard, alpha=1 - lambda_value)
    return result


def _relative_distances(rows: Tensor, num_items: int, result: Tensor, max_memory: int | None) -> Tensor:
    """Largest squared distance [N] of each row; fills `result` with the queries' distances divided by theirs."""
    largest = rows.new_empty(len(rows))
    chunk = rows_per_chunk(8 * len(rows), max_memory, "rerank", rows.numel())
    with full_precision(rows.device):
        base = rows - rows.mean(dim=0)  # distances stay the same, but rounding errors grow with the norms
        norms = base.square().sum(dim=1)
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            squared = torch.addmm(norms, base[part], base.T, alpha=-2).add_(norms[part, None]).clamp_(min=0)
            largest[part] = squared.amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny)  # all rows equal: 0 / tiny
            first = max(num_items - start, 0)  # within the chunk, where the queries begin
            if first < len(squared):
                place = slice(start + first - num_items, start + len(squared) - num_items)
                result[place] = squared[first:, :num_items] / largest[part][first:, None]
    return largest
