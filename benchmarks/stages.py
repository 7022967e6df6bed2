"""Time, waits, traffic and memory of the stages of a computation."""

from __future__ import annotations

import ctypes
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hardware import Figures
from torch import Tensor

import mlt_ops


class Stages:
    """Wall-clock and processor seconds of named stages, how long Ctrl-C would have had to wait, and what must be moved.

    Attributes:
        moved: bytes of the tensors that go into a stage and come out, each counted once: no stage can move less.
    """

    def __init__(self) -> None:
        self.moved: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.longest_wait: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one stage.

        Args:
            name: of the stage.
            function: what to run.
            *args: for it.
            **options: for it.
        """
        begin, cpu_begin = time.perf_counter(), time.process_time()
        with longest_wait_for_signals() as waited:
            result = function(*args, **options)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        self.seconds[name] = time.perf_counter() - begin
        self.cpu_seconds[name] = time.process_time() - cpu_begin
        self.longest_wait[name] = max(waited)
        self.moved[name] = tensor_bytes([args, result])
        return result


def tensor_bytes(things: Any) -> int:
    """Bytes of all different tensors in nested tuples, lists and structures.

    Args:
        things: anything.
    """
    found: dict[int, int] = {}

    def look(thing: Any) -> None:
        if isinstance(thing, Tensor):
            found[thing.data_ptr()] = thing.numel() * thing.element_size()
        elif isinstance(thing, (tuple, list)):
            for part in thing:
                look(part)
        elif isinstance(thing, mlt_ops.SparseRows):
            look([thing.rowptr, thing.col, thing.value])

    look(things)
    return sum(found.values())


@contextmanager
def longest_wait_for_signals() -> Iterator[list[float]]:
    """Seconds between the moments at which Python could act on a signal, such as Ctrl-C, during the block."""
    moments, waited = [time.perf_counter()], [0.0]

    def act(*_: object) -> None:
        moments.append(time.perf_counter())

    before = signal.signal(signal.SIGALRM, act)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        yield waited
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        moments.append(time.perf_counter())
        waited += [later - earlier for earlier, later in pairwise(moments)]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Figures]:
    """Bytes that the block needs beyond what is held when it begins; on a CPU the resident set, sampled each 2 ms.

    Args:
        device: whose memory.
    """
    figures: Figures = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield figures
        figures["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        return
    ctypes.CDLL(None).malloc_trim(0)  # what the search has freed would hide what comes now (glibc)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield figures
    done.set()
    watcher.join()
    figures["peak_bytes"] = max(highest[0], resident()) - before
