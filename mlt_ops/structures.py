"""What the operators take and return."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mlt_ops._arguments import as_integer, as_number, check_is_tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_ROWS = 2**31 - 1  # row numbers are int32 inside the kernels
_INTEGERS = (torch.int64, torch.int32)


class Neighbors(NamedTuple):
    """The k nearest rows of each query, nearest first.

    `distance` [Q, k] float32 holds squared Euclidean distances, `index` [Q, k] int64 the rows of the searched features.
    """

    distance: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Columns(NamedTuple):
    """Some columns of each of N rows, in compressed form (CSR) without values.

    `rowptr` [N + 1] int64 ascends from 0 to M; row i has the columns `col` [M] (int32 or int64) from place rowptr[i] to
    rowptr[i + 1], strictly ascending. A plain pair is accepted in its place.
    """

    rowptr: Tensor
    col: Tensor

    def of_rows(self, begin: int, end: int) -> Columns:
        """The columns of the rows begin..end.

        Args:
            begin: first row.
            end: row after the last.
        """
        rowptr = self.rowptr[begin : end + 1]
        return Columns(rowptr - rowptr[0], self.col[rowptr[0] : rowptr[-1]])


class KMeansResult(NamedTuple):
    """A K-Means clustering of N rows.

    `labels` [N] int64 in 0..K-1; `centroids` [K, D] float32, the means of the rows with each label; `inertia`, the sum
    of squared distances of the rows to the centroid of their label.
    """

    labels: Tensor
    centroids: Tensor
    inertia: float


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows with few non-zero entries, in compressed form (CSR). What is not stored is 0.

    Args:
        rowptr: [N + 1] int64, ascending from 0 to nnz; row i holds the entries rowptr[i] to rowptr[i + 1].
        col: [nnz] int32 (or int64, which is converted), strictly ascending within a row, 0..num_cols-1.
        value: [nnz] float32, finite.
        num_cols: number of columns, below 2^31.

    Raises:
        ValueError: malformed CSR, by name.
    """

    rowptr: Tensor
    col: Tensor
    value: Tensor
    num_cols: int

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "num_cols", as_integer(self.num_cols, name, "num_cols"))
        _check_csr(name, self)
        object.__setattr__(self, "col", self.col.int())
        for name in ("rowptr", "col", "value"):
            object.__setattr__(self, name, getattr(self, name).detach().contiguous())

    @classmethod
    def unchecked(cls, *fields: Any) -> Any:
        """An instance from fields that are known to be right, without a pass over them.

        Args:
            *fields: in the order of the constructor.
        """
        made = object.__new__(cls)
        for name, field in zip(cls.__dataclass_fields__, fields):
            object.__setattr__(made, name, field)
        return made

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.rowptr) - 1

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self.col)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.value.device

    def row_of_entries(self) -> Tensor:
        """Row number [nnz] of each entry."""
        return row_of_entries(self.rowptr, self.nnz)

    def to_dense(self, fill: float = 0.0) -> Tensor:
        """The matrix [N, num_cols] float32.

        Args:
            fill: value of the entries that are not stored.

        Raises:
            RuntimeError: it does not fit into the device's memory; the message holds the number of bytes.
        """
        needed, there = 4 * self.num_rows * self.num_cols, _memory_of(self.device)
        if needed > there:
            raise RuntimeError(
                f"{type(self).__name__}.to_dense: [{self.num_rows}, {self.num_cols}] float32 takes {needed} bytes, "
                f"{self.device} has {there}. Work on the {self.nnz} stored entries instead."
            )
        dense = self.value.new_full((self.num_rows, self.num_cols), fill)
        dense[self.row_of_entries(), self.col] = self.value
        return dense

    def to_scipy(self) -> csr_matrix:
        """The stored entries as `scipy.sparse.csr_matrix` on the CPU; explicit zeros stay stored."""
        from scipy.sparse import csr_matrix  # an optional dependency

        parts = tuple(tensor.cpu().numpy() for tensor in (self.value, self.col, self.rowptr))
        return csr_matrix(parts, shape=(self.num_rows, self.num_cols))


@dataclass(frozen=True, eq=False)
class SparseDistance(SparseRows):
    """The pairs of N rows that are at most `max_distance` apart, in compressed form (CSR), symmetric bit for bit.

    What is not stored is farther. Zeros are stored, the diagonal among them; pairs at distance 1 never are, where 1 is
    the largest distance there is (Jaccard). The fields of `SparseRows`, with num_cols = N and values 0..max_distance.

    Args:
        max_distance: the cut-off, the last field.

    Raises:
        ValueError: malformed CSR, distances out of range, or not symmetric.
    """

    max_distance: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_distance", as_number(self.max_distance, "SparseDistance", "max_distance"))
        if self.num_rows != self.num_cols:
            raise ValueError(f"SparseDistance: must be square, got {self.num_rows} rows and {self.num_cols} columns.")
        if self.nnz and not 0 <= self.value.min() <= self.value.max() <= self.value.new_tensor(self.max_distance):
            raise ValueError(
                f"SparseDistance: value must be between 0 and max_distance={self.max_distance}, "
                f"got {float(self.value.min())} to {float(self.value.max())}."
            )
        order = self.col.argsort(stable=True)  # the transposed matrix's entries, row by row
        row = self.row_of_entries()
        mirrored = (row[order], self.col[order], self.value[order])
        if not all(map(torch.equal, mirrored, (self.col, row, self.value))):
            raise ValueError("SparseDistance: must be symmetric, value for value: store (i, j) and (j, i) alike.")

    def to_dense(self, fill: float = 1.0) -> Tensor:
        """The matrix [N, N] float32.

        Args:
            fill: distance of the pairs that are not stored.

        Raises:
            RuntimeError: it does not fit into the device's memory; the message holds the number of bytes.
        """
        return super().to_dense(fill)


def row_of_entries(rowptr: Tensor, nnz: int) -> Tensor:
    """Row number [nnz] int32 of each entry of a CSR structure.

    Args:
        rowptr: [N + 1].
        nnz: number of entries.
    """
    rows = torch.arange(len(rowptr) - 1, dtype=torch.int32, device=rowptr.device)
    return rows.repeat_interleave(rowptr.diff(), output_size=nnz)


def check_columns(name: str, rowptr: Tensor, col: Tensor, num_cols: int, device: torch.device) -> None:
    """Refuse columns that are no CSR structure.

    Args:
        name: what they are, for the message.
        rowptr: [N + 1].
        col: [nnz].
        num_cols: number of columns there are.
        device: where they must be.

    Raises:
        ValueError: wrong dtype, shape or device, pointers that do not ascend, columns out of range or order.
    """
    _check_field(name, "rowptr", rowptr, _INTEGERS[:1], device)
    _check_field(name, "col", col, _INTEGERS, device)
    if not 0 <= num_cols <= MAX_ROWS:
        raise ValueError(f"{name}: num_cols must be between 0 and {MAX_ROWS}, got {num_cols}.")
    if len(rowptr) < 1 or rowptr[0] != 0 or rowptr[-1] != len(col) or bool((rowptr.diff() < 0).any()):
        raise ValueError(f"{name}: rowptr must ascend from 0 to {len(col)}, the number of entries.")
    low, high = (int(col.min()), int(col.max())) if len(col) else (0, -1)
    if low < 0 or high >= num_cols:
        raise ValueError(f"{name}: col must be between 0 and {num_cols - 1}, got {low} to {high}.")
    if bool(((col.diff() <= 0) & (row_of_entries(rowptr, len(col)).diff() == 0)).any()):
        raise ValueError(f"{name}: col must be strictly ascending within each row.")


def _check_csr(name: str, rows: SparseRows) -> None:
    check_is_tensor(rows.value, f"{name}: value")
    _check_field(name, "value", rows.value, (torch.float32,), rows.value.device)
    _check_field(name, "col", rows.col, _INTEGERS, rows.value.device)
    if len(rows.col) != len(rows.value):
        raise ValueError(f"{name}: col and value must be equally long, got {len(rows.col)} and {len(rows.value)}.")
    check_columns(name, rows.rowptr, rows.col, rows.num_cols, rows.value.device)
    if not torch.isfinite(rows.value).all():
        raise ValueError(f"{name}: value must be finite.")


def _check_field(name: str, field: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    check_is_tensor(tensor, f"{name}: {field}")
    if tensor.dim() != 1 or tensor.dtype not in dtypes or tensor.device != device:
        raise ValueError(
            f"{name}: {field} must be 1-D {dtypes[0]} on {device}, "
            f"got {tensor.dim()}-D {tensor.dtype} on {tensor.device}."
        )


def _memory_of(device: torch.device) -> int:
    """Bytes that a tensor may take at most: on a GPU what is free or kept by PyTorch for reuse, else all memory."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
