"""The arithmetic of the training benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mlt.config import get_cfg


@pytest.fixture
def benchmark(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/bench_train")


def test_what_follows_from_the_measured_parts(benchmark: ModuleType) -> None:
    schedule = get_cfg()
    schedule.merge_from_file(str(benchmark.CONFIG))
    figures = {"step": 0.09, "data": 0.01, "labels": 5.0, "evaluation": 15.0, "save": 2.0, "clustering": 5.0 + 469 / 11}
    figures |= {"FLOP of a step": 9e12, "losses": [1.0, 2.0], "bfloat16": True}
    found = benchmark.conclude(figures, schedule, "NVIDIA H200")
    assert found["images/s"] == pytest.approx(128 / 0.1)
    shares = {
        "data": 3 / 41,
        "steps": 27 / 41,
        "labels": 6 / 41,
        "evaluation": 3 / 41,
        "saving": 2 / 41,
    }  # of 300 steps, 1 / 5 evaluation; eleven epochs of 469 cluster
    assert found["share of an epoch"] == pytest.approx(shares)
    assert found["hours of the schedule"] == pytest.approx(469 * 41 / 3600)
    assert found["share of the peak"] == pytest.approx(9e13 / 989e12)
    assert benchmark.conclude(figures, schedule, "a CPU")["share of the peak"] is None
    assert benchmark.conclude(figures | {"bfloat16": False}, schedule, "NVIDIA H200")["share of the peak"] is None
    table = benchmark.show(
        {"ways": {"plain": figures | found, "fast": figures | found | {"step": 0.045, "losses": [1.0, 1.8]}}}
    )
    assert [line.split()[-1] for line in table.split("\n") if line.startswith("step ")] == ["2"]
    assert table.endswith("a tenth of an epoch, plain and fast: 10.0 %")
    assert "plain and plain: 0.0 %" in benchmark.show({"ways": {"plain": figures | found}})


@pytest.mark.parametrize("size", ["63 64", "64 31", "32 16"])
def test_images_too_small_for_a_person_are_refused(
    benchmark: ModuleType, size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_train.py", "--size", *size.split()])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert f"argument --size: must be at least 64 32, got {size}" in capsys.readouterr().err


def test_copies_are_new_images_of_the_same_people(benchmark: ModuleType, tmp_path: Path) -> None:
    Image.new("RGB", (8, 16), (100, 50, 200)).save(tmp_path / "0007_c1s1_000001_00.jpg")
    benchmark.copies(tmp_path, 4, np.random.default_rng(0))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 4
    assert all(name.startswith("0007_c1s1_") for name in names)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 4
