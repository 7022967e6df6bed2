"""What all tests share: hardware in the report, a device parameter, and random numbers that no test can disturb."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import mlt_ops

ROOT = Path(__file__).resolve().parent.parent

try:
    import hypothesis
except ImportError:  # the property tests skip themselves
    pass
else:
    hypothesis.settings.register_profile("mlt", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mlt")


def pytest_report_header() -> list[str]:
    """Say where the tests run: a CUDA test that was skipped proves nothing."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so every CUDA test is skipped"
    return [
        f"torch {torch.__version__}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, GPU: {gpu}",
        mlt_ops.describe_build(),
    ]


@pytest.fixture(autouse=True)
def _restore_random_state() -> Iterator[None]:
    """Start each test from one state and leave the generators as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])
    assert torch.is_grad_enabled(), "this test has left gradients off, which would fail others"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Restore the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """A script below tools/ or benchmarks/ as a module, by its path without suffix: "tools/train_net"."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name.replace("/", "."), ROOT / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend((ROOT / name).parent)  # as Python does for a script
            spec.loader.exec_module(module)
        return module

    return load
