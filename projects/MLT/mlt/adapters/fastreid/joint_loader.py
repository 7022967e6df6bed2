"""Endless joint batches for a trainer that knows one loader: labelled source rows, then as many target rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlt.structures import SOURCE, TARGET, Batch, ReidRecord

Records = list[ReidRecord]


class JointLoader:
    """Two loaders as one. Target rows come once there are labels.

    Args:
        source: all labelled images.
        target: all target images.
        load: positions and identities (both int64 [n]) in the records of a domain -> endless batches of these images.
        with_source: source rows in the batches.
        num_batches: batches of an epoch.
        ims_per_batch: images of a domain in a batch, over all processes.

    Attributes:
        dataset: what the trainer asks for the length of an epoch and the number of identities.
    """

    def __init__(
        self,
        source: Records,
        target: Records,
        load: Callable[[Records, Tensor, Tensor], Iterable[Batch]],
        with_source: bool,
        num_batches: int,
        ims_per_batch: int,
    ) -> None:
        self.records = {SOURCE: source, TARGET: target}
        self.dataset = _Epoch(num_batches * ims_per_batch, len({record.pid for record in source}))
        self._load = load
        self._loaders: dict[int, Any] = {}
        self._batches: dict[int, Iterator[Batch]] = {}
        if with_source and source:
            self._start(SOURCE, torch.tensor([record.pid for record in source]))

    def ids(self, domain: int) -> tuple[Tensor, Tensor]:
        """Camera ids and identities of all images of a domain, int64 [N]; UNKNOWN where nobody knows.

        Args:
            domain: SOURCE or TARGET.
        """
        records = self.records[domain]
        return torch.tensor([r.camid for r in records]), torch.tensor([r.pid for r in records])

    def set_target_identities(self, targets: Tensor) -> None:
        """New identities of the target images, from the next batch on.

        Args:
            targets: int64 [N]; negative ones are never drawn.
        """
        self._start(TARGET, targets)

    def _start(self, domain: int, targets: Tensor) -> None:
        if domain in self._loaders and hasattr(self._loaders[domain], "shutdown"):
            self._loaders[domain].shutdown()  # ends a thread that holds batches with the former labels
        positions = (targets >= 0).nonzero().flatten()
        self._loaders[domain] = self._load(self.records[domain], positions, targets[positions])
        self._batches[domain] = iter(self._loaders[domain])

    def __iter__(self) -> JointLoader:
        return self

    def __next__(self) -> Batch:
        if TARGET not in self._batches:
            raise RuntimeError("JointLoader: target images have no labels yet; call set_target_identities first")
        parts = {domain: next(self._batches[domain]) for domain in sorted(self._batches)}
        first, *_ = parts.values()
        batch = {key: _join([part[key] for part in parts.values()]) for key in first}
        sizes = torch.tensor([len(part["targets"]) for part in parts.values()])
        # stays on the CPU, where the model can read it without waiting for a GPU
        return batch | {"domains": torch.tensor(list(parts)).repeat_interleave(sizes)}


@dataclass(frozen=True)
class _Epoch:
    length: int
    num_classes: int

    def __len__(self) -> int:
        return self.length


def _join(values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) else [item for value in values for item in value]
