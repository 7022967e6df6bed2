"""What the main process computes reaches the others: its results, and its errors."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from mlt.utils import comm


def raise_error() -> None:
    raise ValueError("no query has a match")


def work(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    result = comm.on_main(lambda: {"mAP": 50.0 + rank})
    try:
        comm.on_main(raise_error if rank == 0 else dist.destroy_process_group)
    except ValueError as error:
        Path(folder, str(rank)).write_text(f"{result} {error}")
    comm.barrier()
    dist.destroy_process_group()


def test_results_and_errors_of_the_main_process_are_everybodys(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["{'mAP': 50.0} no query has a match"] * 2


def test_alone() -> None:
    assert comm.on_main(lambda: 3) == 3
    with pytest.raises(ValueError, match="no query has a match"):
        comm.on_main(raise_error)
