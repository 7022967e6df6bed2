"""Checkpoints that are either complete or not there, whenever the process dies."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mlt.utils import comm
from mlt.utils.files import named

TEMPORARY = ".tmp"  # suffix of a file that is being written
_number = np.float64().__reduce__()[0]  # what pickle calls to make a NumPy number; the first name is NumPy 1's
# such numbers, a best mAP for example, stand in many published checkpoints
NUMPY_NUMBERS: list[Any] = [
    (_number, "numpy.core.multiarray.scalar"),
    *(_number, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType),
]
LAST = "last_checkpoint"  # text file with the name of the newest checkpoint, as in FastReID


def save_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that `path` is at every moment the old file or the complete new one.

    Args:
        state: tensors, numbers, strings and dicts, lists, tuples of them.
        path: file to write; its folder is made if missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(path, lambda file: torch.save(state, file))


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save's own hides a full disk
        if isinstance(cause, OSError):
            raise named(cause, path) from error
        raise
    _sync_folder(path.parent)


def link_checkpoint(path: Path, name: str) -> None:
    """Give a written checkpoint a further name: at every moment that is the old file or the complete new one.

    It is one file with two names where the file system allows it, else a copy. As checkpoints are replaced, never
    written into, a later one under either name leaves the other alone.

    Args:
        path: the checkpoint.
        name: file name in the same folder.
    """
    target, temporary = path.with_name(name), path.with_name(name + TEMPORARY)
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # not every file system knows links
        with open(path, "rb") as source:
            _write_atomically(target, lambda file: shutil.copyfileobj(source, file))
    else:
        os.replace(temporary, target)
        _sync_folder(path.parent)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Only tensors, numbers and plain values: a file cannot run code.

    Args:
        path: a file by `save_checkpoint` or another that torch.save wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds Python objects, or is no checkpoint.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No checkpoint {str(path)!r}, looked in {os.getcwd()}")
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "Unsupported global" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which are not loaded because they could run code. If you trust the "
                "file, load it with weights_only=False once and save its tensors alone."
            ) from error
        raise ValueError(_damaged(path)) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(_damaged(path)) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, wanted a checkpoint: a dict of named tensors")
    return state


def _damaged(path: str | Path) -> str:
    return f"{path} ({os.path.getsize(path)} bytes) is no checkpoint, or a damaged one: copied in part, or cut off?"


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; where folders cannot be opened (Windows) there is nothing to do."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpointer:
    """The checkpoints of a run, named as FastReID's: model_0009.pth, model_best.pth, model_final.pth, last_checkpoint.

    A state has the keys "model", "optimizer", "epoch" and what else the run needs to continue; readers that want
    weights alone take "model". Only the main process saves.

    Args:
        output_dir: folder of the run, made if missing. What a killed process left half-written is removed.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if comm.is_main():
            for stale in (*self.output_dir.glob(f"*.pth{TEMPORARY}"), *self.output_dir.glob(LAST + TEMPORARY)):
                stale.unlink(missing_ok=True)

    def save(self, names: Sequence[str], state: dict[str, Any]) -> None:
        """Write a checkpoint once, give it all its names, and then let `last_checkpoint` name the last of them.

        The run goes on from that one; killed between two names it does so from the former checkpoint.

        Args:
            names: "model_best", "model_final", "model_0009", and "model_last" at the end.
            state: the checkpoint.
        """
        first, *others = (f"{name}.pth" for name in names)
        save_checkpoint(state, self.output_dir / first)
        for other in others:
            link_checkpoint(self.output_dir / first, other)
        newest = others[-1] if others else first
        _write_atomically(self.output_dir / LAST, lambda file: file.write(newest.encode()))

    def last(self) -> Path | None:
        """The newest checkpoint to resume from; None when the run has not saved any.

        Raises:
            FileNotFoundError: `last_checkpoint` names a file that is gone.
        """
        pointer = self.output_dir / LAST
        if not pointer.is_file():
            return None
        name = pointer.read_text(encoding="utf-8", errors="replace").strip()
        path = self.output_dir / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{pointer} names {name or 'nothing'}, which is not in {self.output_dir}; put it back or delete {LAST}"
            )
        return path
