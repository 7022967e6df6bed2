"""Checks and settings that the operators share: features, memory budget, full float32 precision."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mlt_ops._arguments import as_integer, as_pair, check_is_tensor
from mlt_ops.structures import MAX_ROWS, Neighbors

_CPU = torch.device("cpu")
DEFAULT_MEMORY = 1 << 30  # bytes of working memory, inputs and outputs apart
ELEMENTS_PER_CALL = 1 << 27  # passed over in a fraction of a second: between two calls Python sees Ctrl-C


def as_features(tensor: Tensor, op: str, name: str = "features") -> Tensor:
    """Rows fit for distances: detached contiguous float32 [N, D].

    Args:
        tensor: rows of any floating dtype; half and double precision are converted.
        op: the operator, for the message.
        name: the argument, for the message.

    Raises:
        TypeError: not a tensor.
        ValueError: sparse, not 2-D, not floating, elsewhere than on CPU or CUDA, NaN or infinity, or so large that
            squared distances overflow float32.
    """
    check_is_tensor(tensor, f"{op}: {name}")
    if tensor.dim() != 2:
        raise ValueError(f"{op}: {name} must be 2-D [N, D], got shape {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise ValueError(f"{op}: {name} must be floating point, got {tensor.dtype}. Convert them with .float().")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{op}: {name} must be on a CPU or CUDA device, got {tensor.device}. Pass their .cpu().")
    rows = tensor.detach().float().contiguous()
    parts = [torch.stack(part.aminmax()) for part in rows.flatten().split(ELEMENTS_PER_CALL)] if rows.numel() else []
    largest = float(torch.stack(parts).abs().max()) if parts else 0.0  # one pass, no copy
    if not math.isfinite(largest):
        broken = int((~torch.isfinite(tensor)).any(dim=1).sum())
        if broken == 0:
            raise ValueError(f"{op}: {name} are too large for float32 (largest {float(tensor.abs().max()):.3g}).")
        raise ValueError(f"{op}: {name} must be finite, but {broken} of {len(rows)} rows hold NaN or infinity.")
    if largest**2 * (4 * rows.shape[1]) > torch.finfo(torch.float32).max / 4:
        raise ValueError(f"{op}: {name} are too large for float32 squared distances (largest {largest:.3g}).")
    return rows


def as_neighbors(
    neighbors: Neighbors | tuple[Tensor, Tensor], num_rows: int, device: torch.device, width: int, op: str
) -> Neighbors:
    """Neighbour lists fit for the kernels: detached, contiguous, distances float32, indices int32 within 0..N-1.

    Args:
        neighbors: a pair of distances and indices [N, k].
        num_rows: N, the number of rows that the lists belong to.
        device: where those rows are.
        width: columns needed, fewer only where there are fewer rows; further ones are cut off.
        op: the operator, for the message.

    Raises:
        TypeError: not a pair of tensors.
        ValueError: wrong shape, dtype or device, too few columns, indices out of range, distances negative or NaN.
    """
    if num_rows > MAX_ROWS:
        raise ValueError(f"{op}: at most {MAX_ROWS} rows, got {num_rows}.")
    distance, index = as_pair(neighbors, ("distance", "index"), f"{op}: neighbors")
    for name, tensor, kind in (("distance", distance, "floating"), ("index", index, "int64 or int32")):
        fits = tensor.is_floating_point() if name == "distance" else tensor.dtype in (torch.int64, torch.int32)
        if tensor.dim() != 2 or len(tensor) != num_rows or not fits or tensor.device != device:
            raise ValueError(
                f"{op}: neighbors.{name} must be {kind} [{num_rows}, k] on {device}, "
                f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}."
            )
    if distance.shape != index.shape or index.shape[1] < max(min(width, num_rows), 1):
        raise ValueError(
            f"{op}: neighbors needs {max(min(width, num_rows), 1)} columns here, "
            f"got distance {list(distance.shape)} and index {list(index.shape)}."
        )
    distance = distance.detach().float()
    first, last = torch.stack(index.aminmax()).tolist() if num_rows else (0, 0)  # one wait for a GPU
    nearest, farthest = torch.stack(distance.aminmax()).tolist() if num_rows else (0, 0)
    if not 0 <= first <= last < max(num_rows, 1):
        raise ValueError(f"{op}: neighbors.index must be between 0 and {num_rows - 1}, got {first} to {last}.")
    if not 0 <= nearest <= farthest < math.inf:
        raise ValueError(f"{op}: neighbors.distance must be finite and not negative (clamp rounding errors).")
    return Neighbors(distance[:, :width].contiguous(), index[:, :width].int().contiguous())


def memory_budget(max_memory: int | None, op: str) -> int:
    """Bytes of working memory.

    Args:
        max_memory: None is `DEFAULT_MEMORY`.
        op: the operator, for the message.

    Raises:
        ValueError: not a whole number above 0.
    """
    budget = DEFAULT_MEMORY if max_memory is None else as_integer(max_memory, op, "max_memory")
    if budget < 1:
        raise ValueError(f"{op}: max_memory must be above 0 bytes, got {budget}.")
    return budget


def products_per_call(device: torch.device) -> int:
    """Multiplications that take two cores, or a GPU, a fraction of a second: between two calls Python sees Ctrl-C.

    Args:
        device: where they are made.
    """
    return 1 << 42 if device.type == "cuda" else 1 << 33


def rows_per_chunk(
    bytes_per_row: int,
    max_memory: int | None,
    op: str,
    products_per_row: int = 0,
    device: torch.device = _CPU,
) -> int:
    """How many rows fit into the memory budget, and can be computed before Ctrl-C has waited too long.

    Args:
        bytes_per_row: working memory of one row.
        max_memory: budget in bytes; None is `DEFAULT_MEMORY`.
        op: the operator, for the message.
        products_per_row: multiplications of one row, where they are many.
        device: where they are made.

    Raises:
        ValueError: the budget does not hold a single row.
    """
    budget = memory_budget(max_memory, op)
    if budget < bytes_per_row:
        raise ValueError(f"{op}: max_memory={budget} bytes is too little, one row needs {bytes_per_row} bytes.")
    return min(budget // max(bytes_per_row, 1), max(products_per_call(device) // max(products_per_row, 1), 1))


class _Precision:
    """Settings of the whole process that make products exact enough: whoever needs them first sets them, the last one
    restores what was there before."""

    def __init__(self) -> None:
        self.users, self.lock = 0, threading.Lock()
        cuda, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        self.wanted: list[tuple[Any, str, Any]] = [(cuda, "fp32_precision", "ieee"), (mkldnn, "fp32_precision", "ieee")]
        self.wanted += [(cuda, "allow_fp16_accumulation", False)]
        self.before: list[Any] = []

    def acquire(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before = [_setting(place, name) for place, name, _ in self.wanted]
                for place, name, value in self.wanted:
                    setattr(place, name, value)
            self.users += 1

    def release(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for (place, name, _), value in zip(self.wanted, self.before):
                    setattr(place, name, value)


def _setting(place: Any, name: str) -> Any:
    """A setting's value. One that follows the setting of all PyTorch shows that one's, and shall go on to follow it."""
    value = getattr(place, name)
    inherited = name == "fp32_precision" and value == torch.backends.fp32_precision  # type: ignore[attr-defined]
    return "none" if inherited else value


_precision = _Precision()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in true float32: no autocast, TF32 or bfloat16, whatever the caller has set; also by threads.

    Args:
        device: where the products are computed.
    """
    _precision.acquire()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        _precision.release()
