"""Weighted k-reciprocal sets: which neighbours of a row are mutual, and how near they are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mlt_ops._arguments import as_count, check_is_tensor
from mlt_ops._inputs import as_features, as_neighbors
from mlt_ops._library import has_extension
from mlt_ops._sparse import Csr, build_rows, fake_rows, require_kernels, row_pieces
from mlt_ops.structures import Neighbors, SparseRows

_FARTHEST = 87  # e^-87 is the smallest weight, see csrc/arithmetic.h
Window = Literal["clustering", "reranking"]


def window_sizes(k1: int, window: Window, op: str) -> tuple[int, int]:
    """Number of neighbours, the row itself included, in the full and in the narrower window.

    Args:
        k1: as the paper counts.
        window: as the published code slices its neighbour lists.
        op: the operator, for the message.

    Raises:
        ValueError: k1 below 1 or an unknown window.
    """
    k1 = as_count(k1, op, "k1")
    if window not in ("clustering", "reranking"):
        raise ValueError(f"{op}: window must be 'clustering' or 'reranking', got {window!r}.")
    full = (
        k1 if window == "clustering" else k1 + 1
    )  # code for clustering asks its search for k1 columns, itself included
    return full, min(round(k1 / 2) + 1, full)  # round() goes half to even, as NumPy's around


def neighbors_needed(k1: int, k2: int, window: Window, op: str) -> int:
    """Columns of neighbour lists that Jaccard distances take.

    Args:
        k1: see `window_sizes`.
        k2: rows in the mean of the query expansion.
        window: see `window_sizes`.
        op: the operator, for the message.

    Raises:
        ValueError: k1 below 1 or an unknown window.
    """
    return max(window_sizes(k1, window, op)[0], k2)


def k_reciprocal(
    features: Tensor,
    neighbors: Neighbors | tuple[Tensor, Tensor],
    *,
    k1: int,
    window: Window = "clustering",
    scale: Tensor | None = None,
) -> SparseRows:
    """Encode each row by its k-reciprocal neighbours.

    K(i, w) are the first w neighbours j of i that have i among their first w. K(i, w1) is expanded by each K(j, w2),
    j in K(i, w1), of which more than two thirds lie in K(i, w1). Row i of the result is the softmax of -d^2 / scale
    over the expanded set: V_ij = exp(-d_ij^2 / scale_i) / sum. A row always belongs to its own set. Distances come
    from `neighbors` where it has them, else from `features`. The same bits at any number of threads, and (not yet run
    on a GPU) on CPU and CUDA. Time O(N k1^2), memory O(N k1).

    Args:
        features: [N, D] rows, any floating dtype; computed in float32. Pass unit rows for the papers' convention.
        neighbors: squared distances and indices [N, k], nearest first, each row itself included (`knn`). Needs w1
            columns, or N if that is less; more are not used.
        k1: neighbours in the full window, at least 1.
        window: "clustering": w1 = k1, w2 = round(k1 / 2) + 1, as SpCL, OpenUnReID and UDAStrongBaseline slice;
            "reranking": w1 = k1 + 1, w2 = round(k1 / 2) + 1, as the paper's own code and MMT do. round() goes half to
            even, and w2 is at most w1.
        scale: [N] positive, divides d^2 of each row; MMT and re-ranking use each row's largest d^2. None: 1.

    Returns:
        SparseRows [N, N], each row sums to 1. Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite inputs, too few neighbours, differing devices, k1 below 1.
        RuntimeError: the extension is missing or lacks CUDA kernels.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, equations 2-7.
    """
    rows = as_features(features, "k_reciprocal")
    width = window_sizes(k1, window, "k_reciprocal")[0]
    found = as_neighbors(neighbors, len(rows), rows.device, width, "k_reciprocal")
    order = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
    return SparseRows.unchecked(*unchecked_k_reciprocal(rows, order, found, k1, window, scale), len(rows))


def unchecked_k_reciprocal(
    rows: Tensor, order: Tensor, found: Neighbors, k1: int, window: Window, scale: Tensor | None
) -> Csr:
    """`k_reciprocal` for features and neighbours that are known to be right.

    Args:
        rows: [N, D] float32.
        order: [N] int32, all rows; the result's row and column i belong to rows[order[i]].
        found: as `as_neighbors` returns them, numbered as the result.
        k1: neighbours in the full window.
        window: as published code slices.
        scale: [N], numbered as `rows`, or None; checked here.
    """
    require_kernels("k_reciprocal", rows.device)
    divisor = _as_scale(scale, rows)[order]
    if not len(rows):
        return build_rows(lambda begin, end: (rows, rows, rows), 0, 0, rows.device)
    if not (found.distance[:, 0] < _FARTHEST * divisor).all():
        raise ValueError(
            f"k_reciprocal: neighbors.distance must begin with each row's distance to itself, 0 but for rounding; one "
            f"is {_FARTHEST} times its scale or more, so that all weights would be 0. Clamp or centre, or use `knn`."
        )
    sizes = (min(size, found.index.shape[1]) for size in window_sizes(k1, window, "k_reciprocal"))
    full, half = (mutual_neighbors(found.index, size) for size in sizes)

    def build(begin: int, end: int) -> Csr:
        return torch.ops.mlt_ops.k_reciprocal(rows, order, *found, full, half, divisor, begin, end)

    return build_rows(build, 0, len(rows), rows.device)


def mutual_neighbors(index: Tensor, width: int) -> Tensor:
    """Each row's neighbours that have it among theirs, within the first `width`; -1 in place of the others.

    Args:
        index: [N, k] int32.
        width: columns that count, at most k.
    """
    pieces = row_pieces(0, len(index))
    return torch.cat([torch.ops.mlt_ops.mutual_neighbors(index, width, begin, end) for begin, end in pieces])


def _as_scale(scale: Tensor | None, rows: Tensor) -> Tensor:
    if scale is None:
        return rows.new_ones(len(rows))
    check_is_tensor(scale, "k_reciprocal: scale")
    if scale.shape != rows.shape[:1] or scale.device != rows.device or not scale.is_floating_point():
        raise ValueError(
            f"k_reciprocal: scale must be floating [{len(rows)}] on {rows.device}, "
            f"got {scale.dtype} {list(scale.shape)} on {scale.device}."
        )
    divisor = scale.detach().float().contiguous()
    if not (torch.isfinite(divisor) & (divisor > 0)).all():
        raise ValueError("k_reciprocal: scale must be positive and finite.")
    return divisor


if has_extension():

    @torch.library.register_fake("mlt_ops::mutual_neighbors")
    def _fake_mutual_neighbors(index: Tensor, width: int, begin: int, end: int) -> Tensor:
        return index.new_empty(end - begin, width)

    @torch.library.register_fake("mlt_ops::k_reciprocal")
    def _fake_k_reciprocal(
        features: Tensor,
        order: Tensor,
        distance: Tensor,
        index: Tensor,
        full: Tensor,
        half: Tensor,
        scale: Tensor,
        begin: int,
        end: int,
    ) -> Csr:
        return fake_rows(features, end - begin)
