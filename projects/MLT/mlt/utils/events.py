"""Scalars of a run: put in at every step without waiting for the GPU, written now and then to files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mlt.utils import comm
from mlt.utils.files import atomic, naming

METRICS = "metrics.json"
TENSORBOARD = "events.out.tfevents"  # what the names of its files begin with


class EventStorage:
    """Collects scalars between two writes and writes their means.

    metrics.json has one JSON object per line: "iteration" and the scalars, null for what is not finite. Files are
    opened by the first write, and only in the main process.

    Args:
        output_dir: folder of metrics.json and of TensorBoard's event files; None = nothing is written.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._values: dict[str, list[Tensor | float]] = {}
        self._start = 0
        self._json: TextIO | None = None
        self._tensorboard: SummaryWriter | None = None

    def put(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Record values; tensors stay where they are until they are read, so no GPU is waited for.

        Args:
            scalars: name -> number or tensor of one element.
        """
        for name, value in scalars.items():
            kept = value.detach().clone() if isinstance(value, Tensor) else value
            self._values.setdefault(name, []).append(kept)

    def rewind(self, iteration: int) -> None:
        """Take back what was written for later iterations, because a resumed run writes it again.

        Args:
            iteration: steps done in the checkpoint from which the run goes on.
        """
        self.close()
        self._values = {}
        self._start = iteration

    def write(self, iteration: int) -> None:
        """Write the mean of each scalar since the last write, and forget the values.

        Args:
            iteration: steps done.
        """
        values, self._values = self._values, {}
        if not values or self.output_dir is None or not comm.is_main():
            return
        if self._json is None or self._tensorboard is None:
            self._json, self._tensorboard = self._open(self.output_dir)
        means = {name: _mean(numbers) for name, numbers in values.items()}
        line = {name: value if math.isfinite(value) else None for name, value in means.items()}
        with naming(self.output_dir / METRICS):
            self._json.write(json.dumps({"iteration": iteration, **line}) + "\n")
            self._json.flush()
        with naming(self.output_dir / TENSORBOARD):
            for name, value in means.items():
                self._tensorboard.add_scalar(name, value, iteration)
        self._start = iteration  # files that are opened again keep what is in them

    def _open(self, output_dir: Path) -> tuple[TextIO, SummaryWriter]:
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / METRICS
        _cut(path, self._start)
        return path.open("a", encoding="utf-8"), SummaryWriter(str(output_dir), purge_step=self._start + 1)

    def close(self) -> None:
        """Finish the files; a later write goes on with them."""
        files, self._json, self._tensorboard = (self._json, self._tensorboard), None, None
        for name, file in zip((METRICS, TENSORBOARD), files, strict=True):
            if self.output_dir is not None and file is not None:
                with naming(self.output_dir / name):
                    file.close()


def _mean(values: list[Tensor | float]) -> float:
    numbers = [value for value in values if not isinstance(value, Tensor)]
    tensors = [value.reshape(()).double() for value in values if isinstance(value, Tensor)]
    if tensors:
        numbers += torch.stack(tensors).tolist()  # one wait for all of them
    return sum(numbers) / len(numbers)


def _cut(path: Path, iteration: int) -> None:
    """Leave the lines up to an iteration; one that a killed process left unfinished goes too."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    with atomic(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines if _iteration(line) <= iteration), encoding="utf-8")


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf
