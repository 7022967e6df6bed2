"""What the operators on sparse rows share: in which order to build rows, piece by piece, transposing, mirroring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlt_ops._library import has_cuda, has_extension, require_extension
from mlt_ops.structures import SparseRows

Csr = tuple[Tensor, Tensor, Tensor]  # rowptr or colptr, col or row, value
_ROWS_PER_CALL = 8192  # a call lasts a fraction of a second: between two calls Python sees Ctrl-C
_ENTRIES_PER_CALL = 1 << 24  # likewise
_NEAREST, _HOPS = 6, 2  # neighbours and steps that make rows neighbours in `neighborhood_order`


def require_kernels(op: str, device: torch.device) -> None:
    """Refuse to go on without the operators for this device.

    Args:
        op: the function that needs them, for the message.
        device: where its arguments are.

    Raises:
        RuntimeError: no extension, or one without CUDA kernels for this GPU; the message holds the remedy.
    """
    require_extension(op, device)
    if device.type == "cuda" and not has_cuda():
        raise RuntimeError(
            f"{op}: this build of mlt_ops has CPU kernels only, but the tensors are on {device}. Build it again with "
            "WITH_CUDA=1, which says what is missing, or pass the tensors' .cpu()."
        )


def neighborhood_order(index: Tensor) -> Tensor:
    """All rows [N] int32, neighbours next to one another: a row that is built finds in the caches what it needs.

    They are sorted by the lowest of the rows nearest to their nearest. The order of building changes no result.

    Args:
        index: [N, k] int32, each row's neighbours, nearest first.
    """
    lowest = torch.arange(len(index), dtype=torch.int32, device=index.device)
    for _ in range(_HOPS if len(index) else 0):
        lowest = lowest[index[:, :_NEAREST]].amin(dim=1)
    return lowest.argsort(stable=True).int()


def pieces_of(order: Tensor) -> tuple[Tensor, ...]:
    """The rows of one call after another.

    Args:
        order: [M] rows.
    """
    return order.split(_ROWS_PER_CALL) if len(order) else ()


def build_rows(build: Callable[[Tensor], Csr], order: Tensor, first: int = 0) -> Csr:
    """Some neighbouring rows as CSR, ascending, from an operator that builds any rows at a time.

    Args:
        build: called with rows [m] int32; returns entries per row, columns, values.
        order: [M] the rows first..first + M - 1, in the order in which to build them.
        first: the lowest of them.
    """
    pieces = [(piece.long() - first, *build(piece)) for piece in pieces_of(order)]
    rowptr = torch.zeros(len(order) + 1, dtype=torch.int64, device=order.device)
    for place, count, _, _ in pieces:
        rowptr[place + 1] = count
    rowptr = rowptr.cumsum(0)
    nnz = sum(len(col) for _, _, col, _ in pieces)
    all_cols = torch.empty(nnz, dtype=torch.int32, device=order.device)
    all_values = torch.empty(nnz, device=order.device)
    for place, count, col, value in pieces:
        if col.is_cuda:
            entries = _spread(rowptr[place], count, len(col))
            all_cols[entries], all_values[entries] = col, value
        else:
            torch.ops.mlt_ops.place_rows(rowptr[place], count, col, value, all_cols, all_values)
    return rowptr, all_cols, all_values


def _spread(first: Tensor, count: Tensor, total: int) -> Tensor:
    """first[0], first[0] + 1, ... count[0] numbers, then those from first[1], and so on; `total` of them."""
    shift = first - (count.cumsum(0) - count)
    return shift.repeat_interleave(count, output_size=total) + torch.arange(total, device=first.device)


def transpose(rowptr: Tensor, col: Tensor, value: Tensor, num_cols: int) -> Csr:
    """The matrix by columns, the rows of each column in ascending order.

    Args:
        rowptr: [N + 1].
        col: [nnz] int32.
        value: [nnz].
        num_cols: number of columns.
    """
    if not col.is_cuda:
        return _transpose_cpu(rowptr, col, value, num_cols)
    sorted_col, order = col.sort(stable=True)
    colptr = torch.searchsorted(sorted_col, torch.arange(num_cols + 1, dtype=torch.int32, device=col.device))
    row = SparseRows.unchecked(rowptr, col, value, num_cols).row_of_entries()
    return colptr, row[order], value[order]


def _transpose_cpu(rowptr: Tensor, col: Tensor, value: Tensor, num_cols: int) -> Csr:
    """A counting sort, some rows at a time."""
    count = rowptr.new_zeros(num_cols)
    for part in col.split(_ENTRIES_PER_CALL):
        count += torch.bincount(part, minlength=num_cols)
    colptr = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    following, row, row_value = colptr[:-1].clone(), torch.empty_like(col), torch.empty_like(value)
    for begin in range(0, len(rowptr) - 1, _ROWS_PER_CALL):
        end = min(begin + _ROWS_PER_CALL, len(rowptr) - 1)
        torch.ops.mlt_ops.scatter_columns(rowptr, col, value, begin, end, following, row, row_value)
    return colptr, row, row_value


def mirror(rowptr: Tensor, col: Tensor, value: Tensor) -> Csr:
    """The symmetric matrix with this lower triangle, the diagonal included.

    Args:
        rowptr: [N + 1].
        col: [nnz] int32, at most the row's number.
        value: [nnz].
    """
    num_rows = len(rowptr) - 1
    lower = SparseRows.unchecked(rowptr, col, value, num_rows)
    off_diagonal = col < lower.row_of_entries()
    kept = torch.nn.functional.pad(off_diagonal.cumsum(0), (1, 0))[rowptr]
    upper = SparseRows.unchecked(*transpose(kept, col[off_diagonal], value[off_diagonal], num_rows), num_rows)
    both = rowptr + upper.rowptr
    mirrored = col.new_empty(lower.nnz + upper.nnz), value.new_empty(lower.nnz + upper.nnz)
    # A row holds its part of the lower triangle, then its part of the upper one: columns ascend.
    for half, first in ((lower, both[:-1]), (upper, both[:-1] + rowptr.diff())):
        place = _spread(first, half.rowptr.diff(), half.nnz)
        mirrored[0][place], mirrored[1][place] = half.col, half.value
    return both, *mirrored


def fake_rows(like: Tensor, num_rows: int) -> Csr:
    """Result of an operator that builds rows, for tracing: nobody knows the number of entries before it runs.

    Args:
        like: a tensor on the right device.
        num_rows: rows built.
    """
    size = torch.library.get_ctx().new_dynamic_size()
    count = like.new_empty(num_rows, dtype=torch.int64)
    return count, like.new_empty(size, dtype=torch.int32), like.new_empty(size, dtype=torch.float32)


if has_extension():

    @torch.library.register_fake("mlt_ops::place_rows")
    def _fake_place_rows(
        first: Tensor, count: Tensor, col: Tensor, value: Tensor, all_cols: Tensor, all_values: Tensor
    ) -> None:
        return None

    @torch.library.register_fake("mlt_ops::scatter_columns")
    def _fake_scatter_columns(
        rowptr: Tensor,
        col: Tensor,
        value: Tensor,
        begin: int,
        end: int,
        following: Tensor,
        row: Tensor,
        row_value: Tensor,
    ) -> None:
        return None
