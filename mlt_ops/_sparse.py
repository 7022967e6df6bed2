"""What the operators on sparse rows share: how to number and build them, transposing, mirroring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlt_ops._library import has_cuda, has_extension, require_extension
from mlt_ops.structures import Neighbors, row_of_entries

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
    """All rows [N] int32, neighbours next to one another, so that work on them finds in the caches what it needs.

    They are sorted by the lowest of the rows nearest to their nearest.

    Args:
        index: [N, k] int32, each row's neighbours, nearest first.
    """
    lowest = torch.arange(len(index), dtype=torch.int32, device=index.device)
    for _ in range(_HOPS if len(index) else 0):
        lowest = lowest[index[:, :_NEAREST]].amin(dim=1)
    return lowest.argsort(stable=True).int()


def places(order: Tensor) -> Tensor:
    """Where each row stands in an order, [N] int32.

    Args:
        order: [N] int32, all rows.
    """
    return torch.empty_like(order).scatter_(
        0, order.long(), torch.arange(len(order), dtype=torch.int32, device=order.device)
    )


def renumbered(neighbors: Neighbors, order: Tensor) -> Neighbors:
    """The same neighbour lists for rows that are called by their places in an order.

    Args:
        neighbors: distances and int32 indices [N, k].
        order: [N] int32, all rows.
    """
    distance, index = (part.index_select(0, order) for part in neighbors)
    return Neighbors(distance, places(order)[index])


def row_pieces(begin: int, end: int) -> list[tuple[int, int]]:
    """First rows and rows after the last of the calls that work on rows begin..end.

    Args:
        begin: first row.
        end: row after the last.
    """
    return [(i, min(i + _ROWS_PER_CALL, end)) for i in range(begin, end, _ROWS_PER_CALL)]


def build_rows(build: Callable[[int, int], Csr], begin: int, end: int, device: torch.device) -> Csr:
    """Rows begin..end as CSR, from an operator that builds some rows at a time.

    Args:
        build: called with the first row and the row after the last; returns entries per row, columns, values.
        begin: first row.
        end: row after the last.
        device: where the rows are.
    """
    pieces = [build(*piece) for piece in row_pieces(begin, end)]
    empty = torch.zeros(0, dtype=torch.int32, device=device)
    pieces = pieces or [(empty.long(), empty, empty.float())]
    count, col, value = pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces))
    return torch.nn.functional.pad(count.cumsum(0), (1, 0)), col, value


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
    return colptr, row_of_entries(rowptr, len(col))[order], value[order]


def _transpose_cpu(rowptr: Tensor, col: Tensor, value: Tensor, num_cols: int) -> Csr:
    """A counting sort, some rows at a time."""
    count = rowptr.new_zeros(num_cols)
    for part in col.split(_ENTRIES_PER_CALL):
        count += torch.bincount(part, minlength=num_cols)
    colptr = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    following, row, row_value = colptr[:-1].clone(), torch.empty_like(col), torch.empty_like(value)
    for begin, end in row_pieces(0, len(rowptr) - 1):
        torch.ops.mlt_ops.scatter_columns(rowptr, col, value, begin, end, following, row, row_value)
    return colptr, row, row_value


def mirror(rowptr: Tensor, col: Tensor, value: Tensor, order: Tensor) -> Csr:
    """The symmetric matrix with this lower triangle, the diagonal included, under new numbers.

    Args:
        rowptr: [N + 1].
        col: [nnz] int32, at most the row's number.
        value: [nnz].
        order: [N] int32, the number that each row and column shall have.
    """
    if col.is_cuda:
        return _mirror_by_sorting(rowptr, col, value, order)
    num_rows, place = len(rowptr) - 1, places(order)
    columns = transpose(rowptr, col, value, num_rows)

    def build(begin: int, end: int) -> Csr:
        return torch.ops.mlt_ops.mirror(rowptr, col, value, *columns, order, place, begin, end)

    return build_rows(build, 0, num_rows, col.device)


def _mirror_by_sorting(rowptr: Tensor, col: Tensor, value: Tensor, order: Tensor) -> Csr:
    """As `mirror` does without a sort; no two entries are at one place, so there is one order."""
    row = row_of_entries(rowptr, len(col))
    off_diagonal = (col < row).nonzero().squeeze(1)
    rows = order[torch.cat([row, col[off_diagonal]])]
    cols = order[torch.cat([col, row[off_diagonal]])]
    by_place = (rows.long() * len(order) + cols).argsort()
    ends = torch.arange(len(rowptr), dtype=torch.int32, device=col.device)
    return (
        torch.searchsorted(rows[by_place], ends),
        cols[by_place],
        torch.cat([value, value[off_diagonal]])[by_place],
    )


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

    @torch.library.register_fake("mlt_ops::mirror")
    def _fake_mirror(
        rowptr: Tensor,
        col: Tensor,
        value: Tensor,
        colptr: Tensor,
        row: Tensor,
        row_value: Tensor,
        order: Tensor,
        place: Tensor,
        begin: int,
        end: int,
    ) -> Csr:
        return fake_rows(value, end - begin)
