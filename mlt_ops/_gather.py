"""Rows shared among the processes of a group: who computes which, and everything for everyone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mlt_ops._search import parts_of

R = TypeVar("R")


def device_of(features: object, group: dist.ProcessGroup) -> torch.device:
    """Where the group's backend takes numbers: with NCCL this process's GPU, else where the features are.

    Args:
        features: what this process was called with, right or wrong.
        group: the processes.
    """
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    if isinstance(features, Tensor) and features.device.type in ("cpu", "cuda"):
        return features.device
    return torch.device("cpu")


def check_on_device(op: str, rows: Tensor, group: dist.ProcessGroup) -> None:
    """Refuse rows that the group's backend cannot pass on.

    Args:
        op: the operator, for the message.
        rows: the features.
        group: the processes.

    Raises:
        ValueError: rows of the CPU in a group of NCCL.
    """
    if dist.get_backend(group) == "nccl" and not rows.is_cuda:
        raise ValueError(f"{op}: features must be on a GPU, since the group is of NCCL, got {rows.device}.")


def share_of_rank(num_rows: int, group: dist.ProcessGroup) -> slice:
    """The rows that this process computes, neighbouring ones.

    Args:
        num_rows: Q, rows of all processes together.
        group: the processes.
    """
    share = -(-num_rows // dist.get_world_size(group))
    begin = min(dist.get_rank(group) * share, num_rows)
    return slice(begin, min(begin + share, num_rows))


def gather_rows(mine: Tensor, num_rows: int, group: dist.ProcessGroup) -> Tensor:
    """All rows [Q, ...] from each process's share, on every process.

    Args:
        mine: the rows of `share_of_rank`.
        num_rows: Q.
        group: the processes.
    """
    share = -(-num_rows // dist.get_world_size(group))  # shares must be equally long to travel: the last are padded
    padded = torch.nn.functional.pad(mine, (0, 0, 0, share - len(mine)))
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, padded, group=group)
    return torch.cat(parts)[:num_rows]


def fingerprint(rows: Tensor) -> int:
    """A number below 2^52 that other rows, or the same ones in another order, almost surely do not have.

    Args:
        rows: [N, D] float32.
    """
    sums = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for some in parts_of(rows):
        sums[some] = rows[some].view(torch.int32).sum(dim=1, dtype=torch.int64)
    return int((sums * torch.arange(1, len(sums) + 1, device=sums.device)).sum()) % 2**52


def check_same_everywhere(op: str, numbers: list[float], device: torch.device, group: dist.ProcessGroup) -> None:
    """Refuse processes that were called with different arguments, on all of them.

    Args:
        op: the operator, for the message.
        numbers: what must be equal, such as sizes and sums of inputs.
        device: where the group's backend takes tensors.
        group: the processes.

    Raises:
        ValueError: a number differs between two processes.
    """
    everyone = gather_numbers(numbers, device, group)
    if len(set(everyone)) > 1:
        raise ValueError(
            f"{op}: all processes of the group must pass the same arguments, but sizes or contents differ: "
            f"{everyone}. Gather the features before the search."
        )


def unless_one_fails(op: str, compute: Callable[[], R], device: torch.device, group: dist.ProcessGroup) -> R:
    """What this process computes, when all have: none may wait for the rows of one that is out of memory.

    Args:
        op: the operator, for the message.
        compute: calls no other process.
        device: where the group's backend takes tensors.
        group: the processes.

    Raises:
        Exception: what `compute` raised here.
        RuntimeError: it raised on another process alone.
    """
    try:
        result = compute()
    except Exception:
        gather_numbers([True], device, group)
        raise
    failed = [rank for rank, (number,) in enumerate(gather_numbers([False], device, group)) if number]
    if failed:
        raise RuntimeError(f"{op}: failed on process {failed[0]} of the group; its own error says why.")
    return result


def gather_numbers(numbers: Sequence[float], device: torch.device, group: dist.ProcessGroup) -> list[tuple[float, ...]]:
    """Every process's numbers, on every process; whole ones below 2^53 keep their value.

    Args:
        numbers: equally many on all processes.
        device: where the group's backend takes tensors.
        group: the processes.
    """
    mine = torch.tensor(numbers, dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    return [tuple(theirs.tolist()) for theirs in everyone]


def total(mine: int, device: torch.device, group: dist.ProcessGroup) -> int:
    """Sum of a number over the processes.

    Args:
        mine: this process's number.
        device: where the group's backend takes tensors.
        group: the processes.
    """
    number = torch.tensor(mine, device=device)
    dist.all_reduce(number, group=group)
    return int(number)
