"""When the operators' benchmark ends in an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def data(load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "ops_data", module := load_tool("benchmarks/ops_data"))
    return module


def test_features_unlike_real_ones_fail_the_run(data: ModuleType) -> None:
    real, hard = {"ARI": 0.7, "outliers": 0.2}, {"ARI": 0.7, "outliers": 0.3}
    data.require_real([{"N": 12936, **real}, {"N": 500, **hard}])
    with pytest.raises(SystemExit, match=r"\['outliers'\] of these features are not within"):
        data.require_real([{"N": 12936, **real}, {"N": 1_000_000, **hard}])


def test_what_was_measured_is_written_all_the_same(
    data: ModuleType, load_tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load_tool("benchmarks/bench_ops")
    figures = {"N": 20000, "ARI": 0.9, "outliers": 0.2}
    monkeypatch.setattr(benchmark, "measure", lambda size, args: figures)
    path = tmp_path / "results.json"
    words = ["--sizes", "20000", "--numpy-size", "0", "--device", "cpu", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_ops.py", *words])
    with pytest.raises(SystemExit, match="ARI"):
        benchmark.main()
    assert '"ARI": 0.9' in path.read_text()
