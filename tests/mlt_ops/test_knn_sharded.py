"""knn_sharded: each process's part of the search over all rows, bit for bit; refusals reach every process."""

from __future__ import annotations

import sys
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import mlt_ops
from mlt_ops import _gather
from tests.mlt_ops.test_knn import assert_same_bits, clustered, near_duplicates, out_of_memory

WORLD = 3


def cases() -> list[tuple[str, Tensor, list[int], int]]:
    """Name, the rows of all processes, how many of them each has, k."""
    return [
        ("equal shares", clustered(90, 16), [30, 30, 30], 6),
        ("unequal shares", clustered(101, 16), [10, 60, 31], 12),
        ("more neighbours than a process has rows", clustered(40, 16), [3, 30, 7], 25),
        ("all rows", clustered(30, 5), [10, 10, 10], 30),
        ("a process without rows", clustered(50, 16), [20, 0, 30], 5),
        ("all rows in one process", clustered(50, 16), [0, 0, 50], 5),
        ("near duplicates", near_duplicates(240, 32), [81, 79, 80], 6),
        ("all equal", torch.ones(40, 8), [14, 13, 13], 9),
    ]


def refused() -> list[tuple[str, Tensor, float, str]]:
    """Name, this process's rows and k, given its number, and the end of the message."""
    rows = clustered(20, 4)
    return [
        ("nan on one process", rows, 3, "its own error says why|1 of 20 rows hold NaN"),
        ("another width", rows, 3, "D and k must be equal on all processes"),
        ("no whole number", rows, 2.5, "k must be a whole number, got 2.5"),
        ("k too large", rows, 61, "between 1 and the number of all rows.* got k=61 and 60 rows"),
    ]


def search(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    knn_sharded = partial(mlt_ops.knn_sharded, group=dist.group.WORLD)
    found = {}
    for name, rows, shares, k in cases():
        stats: dict[str, int] = {}
        mine = rows.split(shares)[rank]
        found[name] = (
            *knn_sharded(mine, k, stats=stats),
            torch.tensor(stats["doubtful"]),
        )
    for name, rows, k, message in refused():
        if name == "nan on one process" and rank == 1:
            rows = rows.masked_fill(torch.arange(20).unsqueeze(1) == 7, torch.nan)
        if name == "another width" and rank == 2:
            rows = rows[:, :3]
        with pytest.raises(ValueError, match=f"knn_sharded: .*({message})"):
            knn_sharded(rows, k)  # type: ignore[arg-type]
    rows = clustered(20, 4)
    for wrong in (rows.numpy(), rows.tolist(), rows.to("meta")):
        refused_by = (TypeError, ValueError) if rank == 1 else ValueError
        with pytest.raises(refused_by, match=r"got ndarray|got list|got meta|process 1 was refused"):
            knn_sharded(wrong if rank == 1 else rows, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_memory"):
        mlt_ops.knn_sharded(
            clustered(1 + 50 * rank, 4), 1, group=dist.group.WORLD, max_memory=96 * 100
        )  # for two of three
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(sys.modules["mlt_ops.knn_sharded"], "unchecked_knn", out_of_memory)
        wanted = (
            (MemoryError, "no room") if rank == 1 else (RuntimeError, "knn_sharded: failed on process 1 of the group")
        )
        with pytest.raises(wanted[0], match=wanted[1]):
            knn_sharded(clustered(20, 4), 3)
    torch.save(found, Path(folder) / f"{rank}.pt")
    group = weakref.ref(knn_sharded.keywords["group"])
    del knn_sharded
    dist.destroy_process_group()
    assert group() is None  # an error that kept it would keep its threads, which may abort a process that ends


def test_each_process_finds_its_part_of_the_whole(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(search, args=(str(tmp_path),), nprocs=WORLD)  # type: ignore[no-untyped-call]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for name, rows, _, k in cases():
        parts = [theirs[name] for theirs in found]
        together = mlt_ops.Neighbors(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
        assert_same_bits(together, mlt_ops.knn(rows, k))
        assert len({int(part[2]) for part in parts}) == 1
    assert int(found[0]["near duplicates"][2]) > 0


def test_a_group_of_nccl_takes_tensors_of_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a process that is refused: the others would wait for its numbers."""
    group = object()
    monkeypatch.setattr(dist, "get_backend", lambda asked: {group: "nccl"}[asked])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for features in (torch.ones(4, 2), [[1.0]], None):
        assert _gather.device_of(features, group) == torch.device("cuda", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="knn: features must be on a GPU, since the group is of NCCL, got cpu"):
        _gather.check_on_device("knn", torch.ones(4, 2), group)  # type: ignore[arg-type]
