"""The process group in a few calls that also work without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

R = TypeVar("R")


def active() -> bool:
    """Whether a process group of more than one process runs."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, 0 without a group."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if active() else 1


def group() -> ProcessGroup | None:
    """All processes, None where there is only one."""
    return dist.group.WORLD if active() else None


def is_main() -> bool:
    """Whether this process writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def broadcast_object(obj: Any) -> Any:
    """The main process's `obj`, on every process. Pickled: only for objects of this program.

    Args:
        obj: anything picklable; ignored on other processes than the main one.
    """
    if not active():
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(compute: Callable[[], R]) -> R:
    """What the main process computes, on every process: unlike machines cannot come to different results.

    Args:
        compute: called by the main process alone; gives something picklable.

    Raises:
        Exception: what `compute` raised, on every process, so that none waits for a result.
    """
    result: R | None = None
    error: Exception | None = None
    if is_main():
        try:
            result = compute()
        except Exception as caught:
            error = caught
    result, error = broadcast_object((result, error))
    if error is not None:
        raise error
    return result


def gather_object(obj: Any) -> list[Any]:
    """Every process's `obj` in the order of ranks, on every process.

    Args:
        obj: anything picklable.
    """
    if not active():
        return [obj]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, obj)
    return out


def broadcast_rows(rows: Tensor) -> Tensor:
    """The main process's rows, on every process: those that unlike machines compute may differ in their last bits.

    Args:
        rows: [N, ...], equal shape on every process; only the main one's values are read.
    """
    if not active():
        return rows
    rows = rows.detach().contiguous() if is_main() else torch.empty_like(rows, memory_format=torch.contiguous_format)
    dist.broadcast(rows, src=0)
    return rows


def share_rows(rows: Tensor, written: Sequence[Tensor]) -> None:
    """Complete the rows of which each process has written some: it sends those, and takes the others' in place.

    Args:
        rows: [N, ...], equal shape on every process.
        written: int64 [n_r], the rows of each process r; no row twice.
    """
    if not active():
        return
    for owner, index in enumerate(written):
        part = rows[index]
        dist.broadcast(part, src=owner)
        if owner != rank():
            rows[index] = part


def all_gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, one after another in the order of ranks; no gradient.

    Args:
        rows: [n, ...], equal shape on every process.

    Returns:
        [world * n, ...]
    """
    if not active():
        return rows
    rows = rows.detach().contiguous()
    out = rows.new_empty((world_size() * rows.shape[0], *rows.shape[1:]))
    dist.all_gather(list(out.chunk(world_size())), rows)
    return out


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = rows.shape[0]
        return all_gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[rank() * ctx.num_rows : (rank() + 1) * ctx.num_rows]


def gather_with_grad(rows: Tensor) -> Tensor:
    """Rows of all processes, through which the gradient flows back to the process that owns them.

    With DDP's mean over processes, a loss that is the mean over the local anchors against all gathered rows has
    exactly the gradient of the one-process loss over the whole batch.

    Args:
        rows: [n, ...], equal shape on every process.

    Returns:
        [world * n, ...]
    """
    return _GatherRows.apply(rows) if active() else rows


def mean_over_processes(tensors: list[Tensor]) -> None:
    """Replace each floating tensor by its mean over all processes, in place, in one message.

    Args:
        tensors: the same shapes on every process.
    """
    if not active() or not tensors:
        return
    flat = torch.cat([t.detach().reshape(-1).float() for t in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
