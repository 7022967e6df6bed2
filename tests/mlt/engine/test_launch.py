from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mlt.engine.launch import PATIENCE, _free_port, _meeting_point, check_device, launch


class TestCheckDevice:
    @pytest.mark.parametrize("processes", [1, 8])
    def test_the_cpu_takes_any_number(self, processes):
        check_device("cpu", processes)

    def test_gpus_that_are_not_there(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        check_device("cuda", 2)
        with pytest.raises(ValueError, match=r"--num-gpus 3 .* but 2 CUDA devices are visible.*`MODEL.DEVICE cpu`"):
            check_device("cuda", 3)

    @pytest.mark.parametrize("name", ["tpu", "cuda:0", ""])
    def test_other_devices(self, name):
        with pytest.raises(ValueError, match=f"MODEL.DEVICE must be 'cuda' or 'cpu', got '{name}'"):
            check_device(name, 1)

    def test_no_process(self):
        with pytest.raises(
            ValueError, match=r"--num-gpus must be at least 1, got 0; without a GPU add MODEL.DEVICE cpu"
        ):
            check_device("cpu", 0)


def test_one_process_is_this_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    called = []
    launch(lambda *words: called.append((words, dist.is_initialized())), 1, device="cpu", args=(1, "two"))
    assert called == [((1, "two"), False)]


def test_several_machines_need_an_address(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="--dist-url tcp://HOST:PORT of machine 0"):
        launch(lambda: None, 1, device="cpu", num_machines=2)


@pytest.mark.parametrize(
    ("url", "rank"), [("host:29500", 0), ("tcp://host", 0), ("tcp://host:99999", 0), ("tcp://h:1", 2)]
)
def test_no_such_address_or_machine(monkeypatch, url, rank):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=rf"must be tcp://HOST:PORT and .*, got {url}, {rank} and 2"):
        launch(lambda: None, 1, device="cpu", num_machines=2, machine_rank=rank, dist_url=url)


def test_a_process_of_torchrun_joins_its_group(monkeypatch):
    given = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**given, "MASTER_PORT": str(_free_port())}.items():
        monkeypatch.setenv(name, value)
    seen = []
    launch(lambda: seen.append((dist.get_backend(), dist.get_world_size())), 1, device="cpu")
    assert seen == [("gloo", 1)]
    assert not dist.is_initialized()


def test_processes_wait_for_a_main_process_that_clusters_for_long(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr("mlt.engine.launch._meeting_point", lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: seen.append(options["timeout"]))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    launch(lambda: None, 1, device="cpu")
    assert seen == [PATIENCE]
    assert dist.distributed_c10d.default_pg_timeout < PATIENCE  # gloo's; NCCL's is shorter


def test_under_torchrun_the_gpus_of_this_machine_count(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ValueError, match=r"--num-gpus 4 .* but 3 CUDA devices"):
        launch(lambda: None, 1, device="cuda")


def test_the_free_port_is_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", _free_port()))


def _write_rank(folder: str) -> None:
    rank, threads = f"{dist.get_rank()}-of-{dist.get_world_size()}", torch.get_num_threads()
    Path(folder, f"{rank}-here-{dist.get_node_local_rank()}-threads-{threads}").touch()
    if dist.get_rank() == 1:
        raise SystemExit(7)


@pytest.mark.slow
def test_spawned_processes_share_the_cores_and_hand_on_an_exit_code(tmp_path, monkeypatch, restore_threads):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(SystemExit) as left:
        launch(_write_rank, 2, device="cpu", args=(str(tmp_path),))
    assert left.value.code == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-of-2-here-0-threads-1", "1-of-2-here-1-threads-1"]


def _be_killed() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.slow
def test_a_process_that_is_killed_is_told(monkeypatch, caplog):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as left:
        launch(_be_killed, 2, device="cpu")
    assert left.value.code == 128 + signal.SIGKILL
    assert "process 1 was ended by SIGKILL, as a system does that is out of memory; --resume goes on" in caplog.text


def _note_signals(folder: str) -> None:
    """Both note which come; the first tells the launcher to stop, as a terminal does."""

    def note(signum, _frame):
        Path(folder, f"{signal.Signals(signum).name}-{dist.get_rank()}").touch()

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, note)
    dist.barrier()
    if dist.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGINT)
    end = time.monotonic() + 60
    while not list(Path(folder).glob(f"*-{dist.get_rank()}")) and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_comes_to_the_processes_as_sigterm(tmp_path, monkeypatch):
    """From the terminal they have it already, and a second SIGINT would end them before they have saved."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    launch(_note_signals, 2, device="cpu", args=(str(tmp_path),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SIGTERM-0", "SIGTERM-1"]


class TestMeetingPoint:
    @pytest.fixture
    def meet(self, tmp_path, monkeypatch):
        def at_start(number, local="2"):
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", number)
            monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
            return _meeting_point(f"file://{tmp_path}/store", 0, 2)

        return at_start

    def test_the_next_start_sees_no_address_of_the_dead(self, meet):
        meet("0").set("rank 1", "an address")
        assert meet("0").check(["rank 1"])
        assert not meet("1").check(["rank 1"])

    def test_several_machines_may_count_differently(self, meet):
        meet("0", local="1").set("rank 1", "an address")
        assert meet("1", local="1").check(["rank 1"])
