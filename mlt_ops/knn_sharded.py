"""The neighbour search over rows that no process holds all of: blocks of rows travel round a ring of processes."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from mlt_ops import _gather
from mlt_ops._arguments import as_integer
from mlt_ops._inputs import as_features
from mlt_ops.knn import rows_searched_again, unchecked_knn
from mlt_ops.structures import MAX_ROWS, Neighbors

_ITSELF = -1.0  # sorts before every distance


def knn_sharded(
    features: Tensor,
    k: int,
    *,
    group: dist.ProcessGroup,
    max_memory: int | None = None,
    stats: dict[str, int] | None = None,
) -> Neighbors:
    """Find the k nearest among all processes' rows of each row that this process holds.

    The result is, bit for bit, this process's part of what `knn` finds for the rows of all processes together, in the
    order of their ranks. In each of R steps a process searches the block it has while the next one arrives, so each
    sends and receives (R - 1) / R of all rows once. It holds its own rows, two blocks under way and a centred copy of
    two: 20 N D / R bytes, beside `max_memory` and its part of the result. Time O(N^2 D / R).

    Args:
        features: [N_r, D] rows of this process, any floating dtype; computed in float32. Numbers of rows may differ
            among the processes and may be 0, D may not.
        k: number of neighbours, 1..N, where N is the number of all rows.
        group: the processes, for example torch.distributed.group.WORLD.
        max_memory: working memory in bytes of the search of one block; None: 1 GiB.
        stats: is given "doubtful", the number of rows that were searched again, over all blocks and processes.

    Returns:
        Neighbors [N_r, k] on the features' device, sorted by (distance, index), each row itself first. Indices count
        the rows of all processes. Not differentiable: inputs are detached.

    Raises:
        ValueError: on every process if one of them passes malformed or non-finite rows or too little memory, or if D or
            k differ or k is out of range.
        RuntimeError: another process has failed in its search.
    """
    rows, k, sizes = _agree(features, k, group)
    # raises now and everywhere, not on one process alone
    rows_searched_again(max(sizes), rows.shape[1], max_memory, rows.device)
    rank, offsets = dist.get_rank(group), [sum(sizes[:r]) for r in range(len(sizes))]
    found = Neighbors(rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device))
    block, doubtful = rows, 0
    for step in range(len(sizes)):
        owner = (rank + step) % len(sizes)
        last = step + 1 == len(sizes)
        following, messages = (block, []) if last else _pass_on(block, sizes[(owner + 1) % len(sizes)], group)
        search = partial(_search_block, found, rows, block, (offsets[rank], offsets[owner]), k, max_memory)
        try:
            found, again = _gather.unless_one_fails("knn_sharded", search, rows.device, group)
        finally:
            for message in messages:
                message.wait()
        block, doubtful = following, doubtful + again
    if stats is not None:
        stats["doubtful"] = _gather.total(doubtful, rows.device, group)
    return found


def _agree(features: Tensor, k: int, group: dist.ProcessGroup) -> tuple[Tensor, int, list[int]]:
    """This process's rows, k, and every process's number of rows; an error on one process is one on all."""
    try:
        rows, k = as_features(features, "knn_sharded"), as_integer(k, "knn_sharded", "k")
        _gather.check_on_device("knn_sharded", rows, group)
    except (TypeError, ValueError):
        _gather.gather_numbers([-1, -1, -1], _gather.device_of(features, group), group)
        raise
    everyone = _gather.gather_numbers([len(rows), rows.shape[1], k], _gather.device_of(features, group), group)
    sizes = [int(size) for size, _, _ in everyone]
    if min(sizes) < 0:
        raise ValueError(f"knn_sharded: process {sizes.index(-1)} was refused; its own error says why.")
    if len({numbers[1:] for numbers in everyone}) > 1:
        raise ValueError(
            f"knn_sharded: D and k must be equal on all processes, got D and k {[numbers[1:] for numbers in everyone]}."
        )
    if not 1 <= k <= sum(sizes) <= MAX_ROWS:
        raise ValueError(
            f"knn_sharded: k must be between 1 and the number of all rows, at most {MAX_ROWS}, "
            f"got k={k} and {sum(sizes)} rows."
        )
    return rows, k, sizes


def _pass_on(block: Tensor, size: int, group: dist.ProcessGroup) -> tuple[Tensor, list[dist.Work]]:
    """Begin to send a block to the process before and to receive one of `size` rows from the process behind."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    before, behind = (dist.get_global_rank(group, (rank + way) % world) for way in (-1, 1))
    following = block.new_empty(size, block.shape[1])
    messages = []
    if len(block):
        messages.append(dist.P2POp(dist.isend, block, before, group))
    if size:
        messages.append(dist.P2POp(dist.irecv, following, behind, group))
    return following, dist.batch_isend_irecv(messages) if messages else []


def _search_block(
    found: Neighbors, rows: Tensor, block: Tensor, offsets: tuple[int, int], k: int, max_memory: int | None
) -> tuple[Neighbors, int]:
    """What has been found, with a block searched too, and how many rows of it were searched again.

    Args:
        found: in the blocks before.
        rows: of this process.
        block: rows to search.
        offsets: the number of the first of `rows`, and of the block's first, among all rows.
        k: see `knn_sharded`.
        max_memory: see `knn_sharded`.
    """
    if not len(block):
        return found, 0
    near, again = unchecked_knn(block, rows, slice(0, len(rows)), min(k, len(block)), "auto", max_memory)
    return _merge(found, Neighbors(near.distance, near.index + offsets[1]), offsets[0], k), again


def _merge(found: Neighbors, more: Neighbors, first: int, k: int) -> Neighbors:
    """The k nearest of both by (distance, index), where row q is its own nearest under the index first + q."""
    distance, index = (torch.cat(parts, dim=1) for parts in zip(found, more))
    own = torch.arange(first, first + len(index), device=index.device).unsqueeze(1)
    order = index.argsort(dim=1)
    key = distance.masked_fill(index == own, _ITSELF).gather(1, order)
    order = order.gather(1, key.argsort(dim=1, stable=True)[:, :k])
    return Neighbors(distance.gather(1, order), index.gather(1, order))
