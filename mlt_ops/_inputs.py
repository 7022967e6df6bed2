"""Checks and settings that the operators share: features, memory budget, full float32 precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DEFAULT_MEMORY = 1 << 30  # bytes of working memory, inputs and outputs apart


def as_features(tensor: Tensor, op: str, name: str = "features") -> Tensor:
    """Rows fit for distances: detached contiguous float32 [N, D].

    Args:
        tensor: rows of any floating dtype; half and double precision are converted.
        op: the operator, for the message.
        name: the argument, for the message.

    Raises:
        ValueError: not 2-D, not floating, NaN or infinity, or so large that squared distances overflow float32.
    """
    if tensor.dim() != 2:
        raise ValueError(f"{op}: {name} must be 2-D [N, D], got shape {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise ValueError(f"{op}: {name} must be floating point, got {tensor.dtype}. Convert them with .float().")
    rows = tensor.detach().float().contiguous()
    if not torch.isfinite(rows).all():
        broken = int((~torch.isfinite(rows)).any(dim=1).sum())
        raise ValueError(f"{op}: {name} must be finite, but {broken} of {len(rows)} rows hold NaN or infinity.")
    if rows.numel() and rows.abs().max() ** 2 * (4 * rows.shape[1]) > torch.finfo(torch.float32).max / 4:
        raise ValueError(f"{op}: {name} are too large for float32 squared distances (largest {rows.abs().max():.3g}).")
    return rows


def rows_per_chunk(bytes_per_row: int, max_memory: int | None, op: str) -> int:
    """How many rows fit into the memory budget.

    Args:
        bytes_per_row: working memory of one row.
        max_memory: budget in bytes; None is `DEFAULT_MEMORY`.
        op: the operator, for the message.

    Raises:
        ValueError: the budget does not hold a single row.
    """
    budget = DEFAULT_MEMORY if max_memory is None else max_memory
    if budget < bytes_per_row:
        raise ValueError(f"{op}: max_memory={budget} bytes is too little, one row needs {bytes_per_row} bytes.")
    return budget // max(bytes_per_row, 1)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in true float32: no autocast, TF32 or bfloat16, whatever the caller has set.

    Args:
        device: where the products are computed.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before):
            setting.fp32_precision = value
