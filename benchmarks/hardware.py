"""The machine that a benchmark runs on: what it is, what it can do at its best, and whether it has a GPU."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mlt_ops
from mlt_ops._inputs import full_precision

Figures = dict[str, Any]


def require(device: str) -> None:
    """End the program, with a message and without an error, where the device is missing.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda" and not torch.cuda.is_available():
        print(f"{Path(sys.argv[0]).name}: no CUDA device here, nothing is measured")
        sys.exit(0)


def commit() -> str:
    """The commit that is measured, "-dirty" behind it where files differ from it."""
    if shutil.which("git") is None:
        return "unknown: there is no git here"
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def shortest(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of several calls, with all that a GPU has been given done.

    Args:
        call: what to time.
        device: where it computes.
        repeats: calls.
    """
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def hardware(device: str) -> Figures:
    """Where figures are measured.

    Args:
        device: "cpu" or "cuda".
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "GPU": torch.cuda.get_device_name() if device == "cuda" else None,
        "CPU": next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "build": mlt_ops.describe_build(),
        "commit": commit(),
    }


def machine_speed(device: torch.device) -> Figures:
    """What the machine does at its best, measured here: bytes moved and floating-point operations per second.

    Args:
        device: CPU or GPU.
    """
    gpu = device.type == "cuda"
    source = torch.zeros(1 << (30 if gpu else 27), dtype=torch.uint8, device=device)
    target, side = torch.empty_like(source), 8192 if gpu else 2048
    one = torch.randn(side, side, device=device)

    speed = {"bytes/s": 2 * source.numel() / shortest(lambda: target.copy_(source), device)}
    with full_precision(device):
        speed["float32 FLOP/s"] = 2 * side**3 / shortest(lambda: one @ one, device)
        if gpu:
            rounded = one.half()
            speed["float16 FLOP/s"] = 2 * side**3 / shortest(lambda: rounded @ rounded, device)
    return speed
