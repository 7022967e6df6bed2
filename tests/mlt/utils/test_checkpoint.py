"""Checkpoints survive a killed process; damaged and foreign files are refused by name."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mlt.utils.checkpoint import Checkpointer, load_checkpoint, save_checkpoint


def state(value: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((3,), float(value))}, "epoch": value, "metric": 0.5}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pth"
    save_checkpoint(state(4), path)
    loaded = load_checkpoint(path)
    assert loaded["epoch"] == 4
    assert torch.equal(loaded["model"]["weight"], torch.full((3,), 4.0))
    assert [p.name for p in path.parent.iterdir()] == ["model.pth"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(state(1), path)

    def disk_full(obj: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(state(2), path)
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("limit", [0, 100, 5_000, 40_000])
def test_a_disk_that_is_full_is_told_with_the_file(tmp_path: Path, limit: int) -> None:
    """torch.save raises a RuntimeError of its own when its file cannot be closed as it wishes."""
    path = tmp_path / "model.pth"
    save_checkpoint(state(1), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # writing beyond it fails, as on a full disk
    try:
        with pytest.raises(OSError, match=r"File too large, so the file is not written: .*model\.pth"):
            save_checkpoint({"model": {f"weight{n}": torch.zeros(3000) for n in range(9)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize(
    ("moment", "epoch"),
    [
        ("checkpoint.torch.save = lambda obj, file: (file.write(b'half'), file.flush(), die())", 1),  # while writing
        ("checkpoint.os.replace = lambda *paths: die()", 1),  # written, not renamed
        ("checkpoint.os.link = lambda *paths: die()", 1),  # one name of two
        ("checkpoint._write_atomically = die_at_pointer", 2),  # renamed over, last_checkpoint not written
    ],
    ids=["writing", "written", "one name", "renamed"],
)
def test_kill_at_any_moment_leaves_a_complete_last_checkpoint(tmp_path: Path, moment: str, epoch: int) -> None:
    code = f"""
import os, signal, torch
from mlt.utils import checkpoint
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
write = checkpoint._write_atomically
def die_at_pointer(path, action):
    die() if path.name == checkpoint.LAST else write(path, action)
saver = checkpoint.Checkpointer({str(tmp_path)!r})
saver.save(["model_last"], {{"epoch": 1}})
{moment}
saver.save(["model_best", "model_last"], {{"epoch": 2}})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    again = Checkpointer(tmp_path)
    last = again.last()
    assert last is not None
    assert load_checkpoint(last)["epoch"] == epoch
    names = {p.name for p in tmp_path.iterdir()}
    assert names - {"model_best.pth"} == {"last_checkpoint", "model_last.pth"}
    assert all(load_checkpoint(tmp_path / name)["epoch"] for name in names if name.endswith(".pth"))


def test_last_names_the_newest(tmp_path: Path) -> None:
    saver = Checkpointer(tmp_path / "run")
    assert saver.last() is None
    for epoch, name in enumerate(("model_0000", "model_best", "model_final")):
        saver.save([name], state(epoch))
        assert saver.last() == tmp_path / "run" / f"{name}.pth"
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("links", [True, False])
def test_one_writing_for_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    written = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *args: (written.append(1), save(*args)))
    saver = Checkpointer(tmp_path)
    saver.save(["model_best", "model_0000", "model_last"], state(1))
    saver.save(["model_0001", "model_last"], state(2))
    assert len(written) == 2
    epochs = {path.stem: load_checkpoint(path)["epoch"] for path in tmp_path.glob("*.pth")}
    assert epochs == {"model_best": 1, "model_0000": 1, "model_0001": 2, "model_last": 2}
    inodes = {path.stat().st_ino for path in tmp_path.glob("*.pth")}
    assert len(inodes) == (2 if links else 4)
    assert saver.last() == tmp_path / "model_last.pth"
    assert not list(tmp_path.glob("*.tmp"))


def test_last_names_a_file_that_is_gone(tmp_path: Path) -> None:
    saver = Checkpointer(tmp_path)
    saver.save(["model_last"], state(1))
    (tmp_path / "model_last.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"last_checkpoint names model_last\.pth, which is not in"):
        saver.last()


@pytest.mark.parametrize(("text", "name"), [(b"", "nothing"), (b"\xf1\n", "\ufffd")])
def test_last_names_no_file(tmp_path: Path, text: bytes, name: str) -> None:
    (tmp_path / "last_checkpoint").write_bytes(text)
    with pytest.raises(FileNotFoundError, match=f"last_checkpoint names {name}, which is not in"):
        Checkpointer(tmp_path).last()


def test_other_processes_leave_temporary_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    being_written = tmp_path / "model_last.pth.tmp"
    being_written.touch()
    monkeypatch.setattr("mlt.utils.comm.is_main", lambda: False)
    Checkpointer(tmp_path)
    assert being_written.exists()


@pytest.mark.parametrize("length", [0, 10, 600])
def test_cut_off_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(state(1), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"model\.pth \({length} bytes\) is no checkpoint, or a damaged one"):
        load_checkpoint(path)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="is no checkpoint"):
        load_checkpoint(path)


class Code:
    """An object that a checkpoint must not bring back."""


def test_objects_are_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save({"model": Code()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"holds Python objects.*weights_only=False"):
        load_checkpoint(tmp_path / "model.pth")


def test_not_a_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds a list, wanted a checkpoint"):
        load_checkpoint(tmp_path / "model.pth")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No checkpoint .*nothing\.pth"):
        load_checkpoint(tmp_path / "nothing.pth")
