"""Re-ranking of a gallery by k-reciprocal neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mlt_ops._arguments import as_count, as_number
from mlt_ops._inputs import as_features, as_neighbors, full_precision, rows_per_chunk
from mlt_ops._search import Centred, product_distances
from mlt_ops._sparse import require_kernels, transpose
from mlt_ops.jaccard import expanded_sets, jaccard_rows
from mlt_ops.k_reciprocal import neighbors_needed
from mlt_ops.knn import knn
from mlt_ops.largest_distance import unchecked_largest_distance
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
    pieces = rerank_in_pieces(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value, max_memory=max_memory)
    result = gallery.new_empty(len(query), len(gallery), dtype=torch.float32)
    for some, distance in pieces:
        result[some] = distance
    return result


def rerank_in_pieces(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    max_memory: int | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """What `rerank` returns, some queries after others, for results that are ranked and need not be held.

    Args:
        query: see `rerank`.
        gallery: see `rerank`.
        k1: see `rerank`.
        k2: see `rerank`.
        lambda_value: see `rerank`.
        max_memory: working memory in bytes for distances, those of a piece included; None: 1 GiB.

    Yields:
        Which queries, and their distances [q, G].

    Raises:
        ValueError: as `rerank`, at once.
        RuntimeError: as `rerank`.
    """
    k2 = as_count(k2, "rerank", "k2")
    width = neighbors_needed(k1, k2, "reranking", "rerank")
    lambda_value = as_number(lambda_value, "rerank", "lambda_value")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"rerank: lambda_value must be between 0 and 1, got {lambda_value}.")
    queries, items = as_features(query, "rerank", "query"), as_features(gallery, "rerank", "gallery")
    if queries.shape[1] != items.shape[1] or queries.device != items.device:
        raise ValueError(
            f"rerank: query and gallery must share D and device, got D={queries.shape[1]} on {queries.device} "
            f"and D={items.shape[1]} on {items.device}."
        )
    require_kernels("rerank", items.device)
    if not (len(queries) and len(items)):
        return iter(())
    num_items, rows = len(items), torch.cat([items, queries])  # gallery first: it is what a query's row can reach
    neighbors = knn(rows, min(width, len(rows)), max_memory=max_memory)
    found = as_neighbors(neighbors, len(rows), rows.device, width, "rerank")
    centred = Centred.of(rows, rows.mean(dim=0))
    scale = unchecked_largest_distance(centred, max_memory, "rerank")
    order = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
    csr = expanded_sets(rows, order, found, k1, k2, "reranking", scale)
    of_items = csr[0][: num_items + 1], csr[1][: csr[0][num_items]], csr[2][: csr[0][num_items]]
    columns = transpose(*of_items, len(rows))

    def pieces() -> Iterator[tuple[slice, Tensor]]:
        chunk = rows_per_chunk(24 * len(rows), max_memory, "rerank", rows.numel(), rows.device)
        for start in range(num_items, len(rows), chunk):
            some = slice(start, min(start + chunk, len(rows)))
            with full_precision(rows.device):
                distance = product_distances(centred.part(some), centred.part(slice(0, num_items)))
            near = SparseRows.unchecked(*jaccard_rows(csr, columns, 1.0, some.start, some.stop), num_items)
            mixed = distance.div_(scale[some, None]).mul_(lambda_value)
            mixed.add_(near.to_dense(fill=1.0), alpha=1 - lambda_value)
            yield slice(some.start - num_items, some.stop - num_items), mixed

    return pieces()
