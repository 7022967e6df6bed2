"""Scalars of a run: put in at every step without waiting for the GPU, written now and then to files and console."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """Takes the scalars of an iteration somewhere."""

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Args:
        iteration: steps done.
        scalars: name -> value.
        """

    def close(self) -> None:
        """Finish the file."""


class EventStorage:
    """Collects scalars between two writes and hands their means to the writers.

    Args:
        writers: empty on processes that do not write.
    """

    def __init__(self, writers: tuple[Writer, ...] = ()) -> None:
        self.writers = writers
        self._values: dict[str, list[Tensor | float]] = {}

    def put(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Record values; tensors stay where they are until `write`, so no GPU is waited for.

        Args:
            scalars: name -> number or tensor of one element.
        """
        for name, value in scalars.items():
            kept = value.detach().clone() if isinstance(value, Tensor) else value
            self._values.setdefault(name, []).append(kept)

    def write(self, iteration: int) -> dict[str, float]:
        """Hand the mean of each scalar since the last write to the writers, and forget the values.

        Args:
            iteration: steps done, which is what a resumed run compares with.
        """
        means = {name: _mean(values) for name, values in self._values.items()}
        self._values = {}
        if means:
            for writer in self.writers:
                writer.write(iteration, means)
        return means

    def close(self) -> None:
        """Finish all files."""
        for writer in self.writers:
            writer.close()


def _mean(values: list[Tensor | float]) -> float:
    numbers = [v for v in values if not isinstance(v, Tensor)]
    tensors = [v.reshape(()).double() for v in values if isinstance(v, Tensor)]
    if tensors:
        numbers += torch.stack(tensors).tolist()
    return math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else math.nan


class JsonWriter:
    """metrics.json: one JSON object per line, with "iteration" and the scalars; what is not finite is null.

    Args:
        path: the file, appended to.
        resume_iteration: lines of later iterations, which a resumed run writes again, and a line that a killed process
            left unfinished are taken out; 0 = start the file anew.
    """

    def __init__(self, path: str | Path, *, resume_iteration: int = 0) -> None:
        path = Path(path)
        kept = [line for line in _lines(path) if _iteration(line) <= resume_iteration] if resume_iteration else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Append a line.

        Args:
            iteration: steps done.
            scalars: name -> value.
        """
        values = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorboardWriter:
    """TensorBoard event files.

    Args:
        log_dir: folder of the event files.
        resume_iteration: TensorBoard hides what was written for later iterations.
    """

    def __init__(self, log_dir: str | Path, *, resume_iteration: int = 0) -> None:
        purge = resume_iteration + 1 if resume_iteration else None
        self._writer = SummaryWriter(str(log_dir), purge_step=purge)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars.

        Args:
            iteration: steps done.
            scalars: name -> value.
        """
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class ConsoleWriter:
    """One log line for each write.

    Args:
        max_iteration: iterations of the run.
    """

    def __init__(self, max_iteration: int) -> None:
        self.max_iteration = max_iteration

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars.

        Args:
            iteration: steps done.
            scalars: name -> value.
        """
        values = "  ".join(f"{name}: {value:.4g}" for name, value in scalars.items())
        logger.info("iter %d/%d  %s", iteration, self.max_iteration, values)

    def close(self) -> None:
        """Nothing to finish."""
