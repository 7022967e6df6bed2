"""metrics.json and TensorBoard: means, resume, and no wait for the GPU in a step."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from mlt.utils.events import EventStorage


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def record(folder: Path, iterations: range, *, resumed: bool = False) -> None:
    storage = EventStorage(folder)
    if resumed:
        storage.rewind(iterations.start)
    for iteration in iterations:
        storage.put({"loss": float(iteration)})
        storage.write(iteration + 1)
    storage.close()


def test_writes_means_since_the_last_write(tmp_path: Path) -> None:
    storage = EventStorage(tmp_path / "run")
    for value in (1.0, 2.0, 6.0):
        storage.put({"loss": torch.tensor(value), "lr": 0.1})
    storage.write(3)
    storage.put({"loss": torch.tensor([8.0]), "mAP": 50})
    storage.write(4)
    storage.write(5)  # nothing new, no line
    storage.close()
    assert lines(tmp_path / "run") == [
        {"iteration": 3, "loss": 3.0, "lr": pytest.approx(0.1)},
        {"iteration": 4, "loss": 8.0, "mAP": 50.0},
    ]


def test_tensorboard_has_the_same_scalars(tmp_path: Path) -> None:
    record(tmp_path, range(3))
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 0.0), (2, 1.0), (3, 2.0)]


def test_put_keeps_the_value_and_no_graph(tmp_path: Path) -> None:
    storage = EventStorage(tmp_path)
    value = torch.tensor(1.0, requires_grad=True) * 2
    storage.put({"loss": value})
    with torch.no_grad():
        value.fill_(9)
    storage.write(1)
    assert lines(tmp_path) == [{"iteration": 1, "loss": 2.0}]


def test_not_finite_is_null(tmp_path: Path) -> None:
    storage = EventStorage(tmp_path)
    storage.put({"loss": torch.tensor(float("nan")), "grad": float("inf")})
    storage.write(1)
    storage.close()
    assert lines(tmp_path) == [{"iteration": 1, "loss": None, "grad": None}]


def test_resume_writes_no_iteration_twice(tmp_path: Path) -> None:
    record(tmp_path, range(6))
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 7, "lo')  # what a killed process leaves
    record(tmp_path, range(4, 8), resumed=True)
    assert [(line["iteration"], line["loss"]) for line in lines(tmp_path)] == [(i + 1, float(i)) for i in range(8)]


def test_damaged_lines_go(tmp_path: Path) -> None:
    record(tmp_path, range(2))
    with (tmp_path / "metrics.json").open("ab") as file:
        file.write(b"\xf1\x00\n{")
    record(tmp_path, range(2, 3), resumed=True)
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("ends", ["flush", "close"])
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    storage = EventStorage(tmp_path)
    storage.put({"loss": 1.0})
    storage.write(1)
    storage.put({"loss": 2.0})

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage._json, ends, full)
    with pytest.raises(OSError, match=r"No space left on device, so the file is not written: .*metrics\.json"):
        storage.write(2) if ends == "flush" else storage.close()


def test_new_run_starts_a_new_file(tmp_path: Path) -> None:
    record(tmp_path, range(3))
    record(tmp_path, range(2))
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2]


def test_rewind_in_a_running_process(tmp_path: Path) -> None:
    storage = EventStorage(tmp_path)
    for iteration in (1, 2, 3):
        storage.put({"loss": 1.0})
        storage.write(iteration)
    storage.rewind(1)
    storage.put({"loss": 5.0})
    storage.write(2)
    storage.close()
    assert [(line["iteration"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 5.0)]


def test_a_write_after_closing_goes_on_with_the_files(tmp_path: Path) -> None:
    storage = EventStorage(tmp_path)
    for iteration in (1, 2):
        storage.put({"loss": float(iteration)})
        storage.write(iteration)
        storage.close()
    assert [(line["iteration"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0)]
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 1.0), (2, 2.0)]


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlt.utils.comm.is_main", lambda: False)
    record(tmp_path, range(2))
    assert not list(tmp_path.iterdir())
