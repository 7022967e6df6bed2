"""Local query expansion: each sparse row becomes the mean of its neighbours' rows."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._arguments import as_count
from mlt_ops._inputs import as_neighbors
from mlt_ops._library import has_extension
from mlt_ops._sparse import Csr, build_rows, fake_rows, require_kernels
from mlt_ops.structures import Neighbors, SparseRows


def expand_query(rows: SparseRows, neighbors: Neighbors | tuple[Tensor, Tensor], *, k2: int) -> SparseRows:
    """Replace each row by the mean of the rows of its first k2 neighbours, itself included.

    Rows are added in the order of the neighbours, in float32: the same bits at any number of threads, and (not yet run
    on a GPU) on CPU and CUDA. Time O(k2 nnz), memory O(k2 nnz).

    Args:
        rows: [N, C] without negative values, from `k_reciprocal`.
        neighbors: distances and indices [N, k] as for `k_reciprocal`.
        k2: number of rows in the mean, at least 1; 1 with the row itself first changes nothing. Needs k2 columns of
            neighbours, or N if that is less.

    Returns:
        SparseRows [N, C].

    Raises:
        ValueError: malformed neighbours or too few, negative values, k2 below 1.
        RuntimeError: the extension is missing or lacks CUDA kernels.

    Source: Zhong et al., CVPR 2017, section 3.4.
    """
    if not isinstance(rows, SparseRows):
        raise ValueError(
            f"expand_query: rows must be SparseRows, got {type(rows).__name__}. `k_reciprocal` makes them."
        )
    k2 = as_count(k2, "expand_query", "k2")
    if rows.nnz and rows.value.min() < 0:
        raise ValueError(f"expand_query: rows must not hold negative values, got {float(rows.value.min())}.")
    found = as_neighbors(neighbors, rows.num_rows, rows.device, k2, "expand_query")
    csr = (rows.rowptr, rows.col, rows.value)
    return SparseRows.unchecked(*unchecked_expand_query(csr, found, k2, rows.num_cols), rows.num_cols)


def unchecked_expand_query(csr: Csr, found: Neighbors, k2: int, num_cols: int) -> Csr:
    """`expand_query` for arguments that are known to be right.

    Args:
        csr: rows.
        found: as `as_neighbors` returns them.
        k2: number of rows in the mean.
        num_cols: columns of the rows.
    """
    require_kernels("expand_query", found.index.device)
    width = min(k2, found.index.shape[1])

    def build(begin: int, end: int) -> Csr:
        return torch.ops.mlt_ops.expand_query(*csr, found.index, num_cols, width, begin, end)

    return build_rows(build, 0, len(found.index), found.index.device)


if has_extension():

    @torch.library.register_fake("mlt_ops::expand_query")
    def _fake_expand_query(
        rowptr: Tensor, col: Tensor, value: Tensor, index: Tensor, num_cols: int, k2: int, begin: int, end: int
    ) -> Csr:
        return fake_rows(value, end - begin)
