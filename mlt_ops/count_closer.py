"""Places in a ranking without sorting: how many columns of a row come before a few of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._arguments import as_pair, check_is_tensor
from mlt_ops._inputs import ELEMENTS_PER_CALL
from mlt_ops._library import has_cuda, has_extension
from mlt_ops.structures import Columns, check_columns, row_of_entries

_COMPARISONS_PER_CALL = 1 << 32  # a call lasts a fraction of a second: between two calls Python sees Ctrl-C
_FALLBACK_ELEMENTS = 1 << 20  # sorted at a time without the extension, with about 50 bytes each
_INFINITY_BITS = 0x7F800000  # of a float32


def count_closer(
    distance: Tensor,
    reference: Columns | tuple[Tensor, Tensor],
    *,
    excluded: Columns | tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """How many columns of its row come before each reference column: its place, from 0, in a stable sort of the row.

    Columns are ordered by distance and, where equal, by index; -0.0 equals 0.0, and NaN comes last. Excluded columns
    are not counted; one may be a reference itself. The same counts at any number of threads and (not yet run on a GPU)
    on CPU and CUDA. Each reference is compared with its whole row: time O(G (Q + M)), which for some hundred references
    per row is less than sorting takes; no memory beside the result. Without the extension PyTorch sorts the rows, with
    the same result, in 50 MB or 50 bytes per column.

    Args:
        distance: [Q, G], any floating dtype. Half precision is converted exactly; double precision is rounded to
            float32, and what is equal then counts as equal.
        reference: columns of each row, M in all; on the device of `distance`.
        excluded: columns of each row that do not count; None: none.

    Returns:
        Counts [M] int64, in the order of the reference columns. Not differentiable: inputs are detached.

    Raises:
        TypeError: distance is no tensor, or columns are no pair of tensors.
        ValueError: wrong shape or dtype, malformed columns, or differing devices.
        RuntimeError: the extension was not built for this GPU.
    """
    check_is_tensor(distance, "count_closer: distance")
    if distance.dim() != 2 or not distance.is_floating_point():
        raise ValueError(
            f"count_closer: distance must be floating [Q, G], got {distance.dtype} {list(distance.shape)}. "
            "Convert whole numbers with .float(), which is exact up to 2^24."
        )
    distance = distance.detach()
    references = _as_columns(reference, distance, "reference")
    if excluded is None:
        excluded = Columns(torch.zeros_like(references.rowptr), references.col[:0])
    left_out = _as_columns(excluded, distance, "excluded")
    count, rows_per_call = _count_closer_torch, max(_FALLBACK_ELEMENTS // max(distance.shape[1], 1), 1)
    if has_cuda(distance.device) if distance.is_cuda else has_extension():
        count, rows_per_call = torch.ops.mlt_ops.count_closer, _rows_per_call(distance, len(references.col))
    counts = [references.rowptr.new_zeros(0)]
    for begin in range(0, len(distance), rows_per_call):
        end = min(begin + rows_per_call, len(distance))
        rows = distance[begin:end].float().contiguous()
        counts.append(count(rows, *references.of_rows(begin, end), *left_out.of_rows(begin, end)))
    return torch.cat(counts)


def _as_columns(columns: Columns | tuple[Tensor, Tensor], distance: Tensor, name: str) -> Columns:
    name = f"count_closer: {name}"
    rowptr, col = as_pair(columns, ("rowptr", "col"), name)
    check_columns(name, rowptr, col, distance.shape[1], distance.device)
    if len(rowptr) != len(distance) + 1:
        raise ValueError(
            f"{name}: rowptr must be [{len(distance) + 1}], one more than the rows of distance, got [{len(rowptr)}]."
        )
    return Columns(rowptr.contiguous(), col.int().contiguous())


def _rows_per_call(distance: Tensor, num_references: int) -> int:
    comparisons = distance.shape[1] * max(num_references // max(len(distance), 1), 1)  # of an average row
    return max(min(_COMPARISONS_PER_CALL // max(comparisons, 1), ELEMENTS_PER_CALL // max(distance.shape[1], 1)), 1)


def _count_closer_torch(
    distance: Tensor, rowptr: Tensor, col: Tensor, excluded_rowptr: Tensor, excluded_col: Tensor
) -> Tensor:
    """The operator's result without the extension."""
    order = _order_keys(distance).argsort(dim=1, stable=True)
    counts = torch.ones_like(order)
    counts[row_of_entries(excluded_rowptr, len(excluded_col)), excluded_col] = 0
    counts = counts.gather(1, order)
    before = counts.cumsum(dim=1).sub_(counts)
    place = counts.scatter_(1, order, before)
    return place[row_of_entries(rowptr, len(col)), col]


def _order_keys(distance: Tensor) -> Tensor:
    """int32 that sort as csrc/order.h says, on every device."""
    bits = distance.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    return torch.where(bits < 0, -magnitude, magnitude).masked_fill_(magnitude > _INFINITY_BITS, _INFINITY_BITS + 1)


if has_extension():

    @torch.library.register_fake("mlt_ops::count_closer")
    def _fake_count_closer(
        distance: Tensor, rowptr: Tensor, col: Tensor, excluded_rowptr: Tensor, excluded_col: Tensor
    ) -> Tensor:
        return rowptr.new_empty(col.shape[0])
