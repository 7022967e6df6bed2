"""What the tests of the sparse operators share: features with clusters in them, peak memory, Ctrl-C."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


@pytest.fixture
def clustered() -> Callable[..., Tensor]:
    """Unit rows around a few centres; some rows are equal."""

    def make(num_rows: int, dim: int = 16, noise: float = 0.5, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(max(num_rows // 12, 1), dim, generator=generator)
        rows = centres[torch.randint(len(centres), (num_rows,), generator=generator)]
        rows = torch.nn.functional.normalize(rows + noise * torch.randn(num_rows, dim, generator=generator))
        rows[num_rows // 2 : num_rows // 2 + 3] = rows[: min(3, num_rows - num_rows // 2)]
        return rows

    return make


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Most bytes that tensors and the insides of PyTorch's operators hold at a time during a call, on the CPU."""

    def measure(call: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
        assert recorded.profiler is not None
        assert recorded.profiler.kineto_results is not None
        events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))

    return measure


@pytest.fixture
def interrupted() -> Callable[[Callable[[], object]], float]:
    """Seconds of computing between a Ctrl-C in the middle of a call, which lasts longer than 0.2 s, and its end.

    The clock is that of the calling thread, so that other programs on the machine decide nothing.
    """

    def measure(call: Callable[[], object]) -> float:
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        clock = time.pthread_getcpuclockid(main_thread)
        sent = []

        def press() -> None:
            sent.append(time.clock_gettime(clock))
            signal.pthread_kill(main_thread, signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
        gc.disable()  # KeyboardInterrupt is lost where it meets another library's gc.callbacks, such as hypothesis has
        threading.Timer(0.2, press).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                call()
            return time.clock_gettime(clock) - sent[0]
        finally:
            gc.enable()
            signal.signal(signal.SIGINT, before)

    return measure
