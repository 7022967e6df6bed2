"""The comparison of loaders runs, and refuses to compare what is not equal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/bench_data")


@pytest.mark.slow
def test_a_small_run(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_threads: None) -> None:
    out = tmp_path / "data.json"
    words = ["--ids", "16", "--threads", "1", "--repeats", "1", "--device", "cpu", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench_data.py", *words])
    bench.main()
    results = json.loads(out.read_text())
    assert results["images"] == 192
    assert results["batch"]["shape"] == [64, 3, 256, 128]
    assert sum(results["ms of a batch"]["share of each"].values()) == pytest.approx(1)


@pytest.mark.parametrize("wrong", [torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2).double(), torch.ones(3, 3, 2, 2)])
def test_unequal_batches_are_not_compared(bench: ModuleType, wrong: torch.Tensor) -> None:
    right = torch.ones(4, 3, 2, 2)
    assert bench.require_equal_batches([right], [right])["largest difference of a mean or spread"] == 0
    with pytest.raises(RuntimeError, match="do not give the same batches"):
        bench.require_equal_batches([right], [wrong])
