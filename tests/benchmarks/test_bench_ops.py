"""When the operators' benchmark ends in an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mlt_ops


@pytest.fixture
def data(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/ops_data")


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
    monkeypatch.setattr(benchmark, "measure", lambda size, args, speed: figures)
    path = tmp_path / "results.json"
    words = ["--sizes", "20000", "--numpy-size", "0", "--frames", "0", "--device", "cpu", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_ops.py", *words])
    with pytest.raises(SystemExit, match="ARI"):
        benchmark.main()
    assert '"ARI": 0.9' in path.read_text()


def test_frames_are_what_bounds_cannot_tell(data: ModuleType) -> None:
    frames, stats = data.make_frames(600, 1024, seed=0), dict[str, int]()
    mlt_ops.knn(frames, data.FRAMES // 2, backend="half", stats=stats)
    assert stats["doubtful"] > 500
    found = mlt_ops.knn(frames, data.FRAMES)
    assert found.distance[:, 1:].mean() == pytest.approx(0.02, rel=0.05)  # of a video's frames, nobody else's
    assert data.make_frames(61, 8, seed=0).shape == (61, 8)


def test_shares_of_the_floor(data: ModuleType, load_tool: Callable[[str], ModuleType]) -> None:
    benchmark, stages = load_tool("benchmarks/bench_ops"), load_tool("benchmarks/stages").Stages()
    rows = torch.zeros(1000, 64)
    stages("knn, D = 64", lambda x: (x, x[:1]), rows)
    stages("copy", torch.clone, rows)
    assert stages.moved["copy"] == 2 * 256_000  # read once, written once
    stages.seconds |= {"knn, D = 64": 0.5, "knn, D = 64, half": 0.5, "copy": 0.5}
    stages.moved["knn, D = 64, half"] = 0
    speed = {"bytes/s": 2_048_000.0, "float32 FLOP/s": 256e6, "float16 FLOP/s": 512e6}
    shares = benchmark.shares_of_floor(stages, 1000, speed)
    assert shares == {"knn, D = 64": 0.5, "knn, D = 64, half": 0.25, "copy": 0.5}


def test_the_machine_at_its_best(data: ModuleType, load_tool: Callable[[str], ModuleType]) -> None:
    speed = load_tool("benchmarks/hardware").machine_speed(torch.device("cpu"))
    assert set(speed) == {"bytes/s", "float32 FLOP/s"}
    assert min(speed.values()) > 1e6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_measured(
    data: ModuleType,
    load_tool: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/bench_ops.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as left:
        load_tool("benchmarks/bench_ops").main()
    assert left.value.code == 0
    assert capsys.readouterr().out == "bench_ops.py: no CUDA device here, nothing is measured\n"
