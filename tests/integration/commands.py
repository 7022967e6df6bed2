"""Runs tools/train_net.py as a user would, in processes that are forked from one in which torch is loaded already."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
TRAIN_NET = ROOT / "tools" / "train_net.py"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["mlt.components", "mlt.engine.run"])
LIMIT = 120  # seconds that any command may take


def _main(words: list[str], log: str, prepare: Callable[[], None] | None) -> None:
    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = [str(TRAIN_NET), *words]
    if prepare is not None:
        prepare()
    runpy.run_path(str(TRAIN_NET), run_name="__main__")


@dataclass
class Command:
    """A running or finished command line."""

    process: BaseProcess
    log: Path

    @property
    def text(self) -> str:
        """What it has printed so far, on both streams."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def wait(self) -> int:
        """Its exit code; a negative one is the signal that ended it."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
            raise TimeoutError(f"still running after {LIMIT} s:\n{self.text}")
        return self.process.exitcode

    def wait_for(self, path: Path) -> None:
        """Return once a file exists."""
        end = time.monotonic() + LIMIT
        while not path.exists():
            if time.monotonic() > end or self.process.exitcode is not None:
                raise TimeoutError(f"{path} did not appear:\n{self.text}")
            time.sleep(0.005)


def start(log: Path, *words: object, prepare: Callable[[], None] | None = None) -> Command:
    """Start tools/train_net.py with some words behind it; `prepare` is called in its process first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_main, args=([str(word) for word in words], str(log), prepare))
    process.start()
    return Command(process, log)


def signal_once_written(name: str, signum: int) -> None:
    """Let this process, and those it started, get a signal at the moment when a file of that name has appeared."""
    replace = os.replace

    def replace_and_signal(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        if Path(target).name == name:
            os.replace = replace
            os.killpg(0, signum)

    os.replace = replace_and_signal  # type: ignore[assignment]


def call(log: Path, *words: object) -> str:
    """Run a command that must succeed; returns what it printed."""
    command = start(log, *words)
    code = command.wait()
    assert code == 0, f"exit code {code}\n{command.text}"
    return command.text


def fail(log: Path, *words: object, code: int = 2) -> str:
    """Run a command that must end in a message; returns it."""
    command = start(log, *words)
    found = command.wait()
    assert found == code, f"exit code {found}, wanted {code}\n{command.text}"
    assert "Traceback" not in command.text, command.text
    return command.text


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def call_group(number: int, target: Callable[..., None], *args: object) -> None:
    """Run target(rank, *args) in processes that form a torch.distributed group; all must succeed."""
    port = free_port()
    processes = [CONTEXT.Process(target=_in_group, args=(rank, number, port, target, *args)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    assert [process.exitcode for process in processes] == [0] * number


def _in_group(rank: int, number: int, port: int, target: Callable[..., None], *args: object) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=number)
    target(rank, *args)
    dist.destroy_process_group()


def call_python(*words: object) -> str:
    """Run `python ...` from scratch in the project's folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
