"""Memory shared by the processes of a machine, and memory of one's own where that cannot be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from mlt.utils import comm, shared_memory


def work(rank: int, port: int, folder: str, reach: bool) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    if not reach:  # as on two machines
        shared_memory.os.readlink = lambda path: "" if f"/{os.getpid()}/" not in path else f"/proc/self/fd/{path}"
    memory = shared_memory.shared_map(5000)
    other = shared_memory.shared_map(10)
    comm.barrier()
    memory[rank] = 7 + rank
    comm.barrier()
    Path(folder, str(rank)).write_text(f"{memory[0]} {memory[1]} {other[0]} {len(memory)}")
    dist.destroy_process_group()


@pytest.mark.parametrize(("reach", "seen"), [(True, ["7 8 0 5000"] * 2), (False, ["7 0 0 5000", "0 8 0 5000"])])
def test_processes_see_one_memory_where_they_can(tmp_path: Path, reach: bool, seen: list[str]) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("needs Linux")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path), reach), nprocs=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == seen


def test_a_fork_shares_the_memory_of_one_process() -> None:
    memory = shared_memory.shared_map(100)
    if os.fork() == 0:
        memory[3] = 9
        os._exit(0)
    os.wait()
    assert memory[3] == 9


def test_only_the_offered_memory_is_opened() -> None:
    """A path may lead to another machine's file, or to nothing."""
    file = shared_memory._create("mlt-one", 50)
    path = f"/proc/{os.getpid()}/fd/{file}"
    assert shared_memory._first_in_reach([("/proc/0/fd/None", ""), (path, "/memfd:mlt-two (deleted)")], 50) is None
    memory = shared_memory._first_in_reach([(path, "/memfd:mlt-one (deleted)")], 50)
    assert memory is not None
    os.pwrite(file, b"x", 4)
    assert memory[4:5] == b"x"
    os.close(file)


def test_no_memory_to_share(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("mlt.utils.log._said", set())
    assert shared_memory._create("mlt-one", 50) is None
    assert "each decodes its own images" in caplog.text
