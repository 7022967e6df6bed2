"""The unit in which MMT and re-ranking measure how near a row's neighbours are."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._inputs import as_features, full_precision, rows_per_chunk
from mlt_ops._search import Centred, product_distances


def largest_distance(features: Tensor, *, max_memory: int | None = None) -> Tensor:
    """Each row's largest squared distance to any row: `scale` of `jaccard_distance` as MMT and re-ranking have it.

    Time O(N^2 D), a few rows at a time.

    Args:
        features: [N, D] rows, any floating dtype; computed in float32, up to rounding.
        max_memory: working memory in bytes, one copy of the features apart; None: 1 GiB.

    Returns:
        [N] float32 on the features' device, positive: the smallest normal number where all rows are equal. Not
        differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite features, too little memory.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, code.
    """
    rows = as_features(features, "largest_distance")
    if len(rows) == 0:
        return rows.new_empty(0)
    return unchecked_largest_distance(Centred.of(rows, rows.mean(dim=0)), max_memory, "largest_distance")


def unchecked_largest_distance(rows: Centred, max_memory: int | None, op: str) -> Tensor:
    """See `largest_distance`.

    Args:
        rows: at least one.
        max_memory: see `largest_distance`.
        op: the operator, for the message.
    """
    chunk = rows_per_chunk(8 * len(rows.base), max_memory, op, rows.base.numel(), rows.base.device)
    with full_precision(rows.base.device):
        parts = [rows.part(slice(start, start + chunk)) for start in range(0, len(rows.base), chunk)]
        largest = torch.cat([product_distances(part, rows).amax(dim=1) for part in parts])
    return largest.clamp_(min=torch.finfo(torch.float32).tiny)  # all rows equal: 0 / tiny
