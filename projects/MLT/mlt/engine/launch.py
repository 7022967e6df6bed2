"""Start a function on N processes: spawned here, or already started by torchrun."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

logger = logging.getLogger(__name__)
# The others wait while the main process clusters and evaluates: PyTorch's 10 minutes with NCCL could end a run of many
# images. What is longer also notices a dead machine later.
PATIENCE = timedelta(hours=1)


def launch(
    main: Callable[..., None],
    num_gpus: int,
    *,
    device: str,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
) -> None:
    """Call `main(*args)` in every process of the run.

    Under torchrun (RANK and WORLD_SIZE are set) this process is one of them. Else `num_gpus` processes are spawned
    on this machine, or `main` is called directly when the run has only one. NCCL on CUDA, gloo on the CPU.

    Args:
        main: a module-level function.
        num_gpus: processes on this machine, each with a GPU of its own on CUDA.
        device: "cuda" or "cpu" (MODEL.DEVICE).
        num_machines: machines of the run.
        machine_rank: this machine's number.
        dist_url: "tcp://host:port" of machine 0; "auto" finds a free port and is for one machine only.
        args: arguments of `main`.

    Raises:
        ValueError: more GPUs asked for than there are, "auto" with several machines, or no such address or machine.
    """
    started = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    check_device(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started else num_gpus)
    if started:
        _enter(
            int(os.environ.get("LOCAL_RANK", "0")),
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            "env://",
            device,
            main,
            args,
        )
        return
    world = num_gpus * num_machines
    if world == 1:
        main(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError("--dist-url tcp://HOST:PORT of machine 0 is needed with several machines")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    address = re.fullmatch(r"tcp://.+:(\d+)", dist_url)
    if address is None or int(address[1]) >= 2**16 or not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"--dist-url must be tcp://HOST:PORT and 0 <= --machine-rank < --num-machines, got {dist_url}, "
            f"{machine_rank} and {num_machines}"
        )
    # processes that are ended because another one failed are no news
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    context = start_processes(
        _spawned,
        (num_gpus, machine_rank, world, dist_url, device, main, args),
        num_gpus,
        join=False,
        start_method="spawn",
    )
    _join(context)


def check_device(device: str, num_gpus: int) -> None:
    """Refuse a device that is not there.

    Args:
        device: "cuda" or "cpu".
        num_gpus: processes wanted on this machine.

    Raises:
        ValueError: unknown device, no process, or fewer GPUs than processes; names the CPU setting.
    """
    if device not in ("cuda", "cpu"):
        raise ValueError(f"MODEL.DEVICE must be 'cuda' or 'cpu', got {device!r}")
    if num_gpus < 1:
        raise ValueError(f"--num-gpus must be at least 1, got {num_gpus}; without a GPU add MODEL.DEVICE cpu")
    found = torch.cuda.device_count()
    if device == "cuda" and found < num_gpus:
        raise ValueError(
            f"--num-gpus {num_gpus} with MODEL.DEVICE cuda, but {found} CUDA devices are visible. "
            "Add `MODEL.DEVICE cpu` to the command to run on the CPU."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _join(context: Any) -> None:
    """Wait for the children; pass SIGTERM and SIGINT on to them, so that they save and leave.

    Both as SIGTERM: a terminal's Ctrl-C has reached them already, and a second SIGINT would end them at once.
    """

    def forward(_signum: int, _frame: Any) -> None:
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    held = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        raise SystemExit(_exit_code(error)) from None
    finally:
        for signum, handler in held.items():
            signal.signal(signum, handler)


def _exit_code(error: ProcessExitedException) -> int:
    """Of the run, as a shell gives it. A process that left by itself has said why."""
    if error.exit_code >= 0:
        return error.exit_code
    why = ", as a system does that is out of memory" if error.signal_name == "SIGKILL" else ""
    text = "process %d was ended by %s%s; --resume goes on from the last checkpoint"
    logger.error(text, error.error_index, error.signal_name, why)
    return 128 - error.exit_code


def _spawned(
    local_rank: int,
    num_local: int,
    machine_rank: int,
    world: int,
    url: str,
    device: str,
    main: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    if device == "cpu":  # num_local processes share this machine's cores
        torch.set_num_threads(max(1, torch.get_num_threads() // num_local))
    os.environ["LOCAL_RANK"] = str(local_rank)  # as torchrun sets it
    _enter(local_rank, machine_rank * num_local + local_rank, world, url, device, main, args)


def _enter(
    local_rank: int, rank: int, world: int, url: str, device: str, main: Callable[..., None], args: tuple[Any, ...]
) -> None:
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    backend = "nccl" if device == "cuda" else "gloo"
    store = _meeting_point(url, rank, world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        main(*args)
    finally:
        dist.destroy_process_group()


def _meeting_point(url: str, rank: int, world: int) -> Store:
    """Where the processes find one another.

    When torchrun starts them again it may hand out the store in which the dead ones left their addresses (torch 2.14),
    so each start gets a part of its own. Several machines may have counted different numbers of starts: there torchrun
    has the say.
    """
    store, _, _ = next(rendezvous(url, rank, world))
    starts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    alone = os.environ.get("LOCAL_WORLD_SIZE") == str(world)
    return PrefixStore(f"start {starts}", store) if starts and alone else store
