"""The one way in which loaders start a DataLoader, and what they say of skipped images."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)
STOPS = (signal.SIGTERM, signal.SIGINT)
START_METHOD = "fork" if sys.platform == "linux" else None  # of workers: they start at once and share memory


class SkippedImages:
    """Tells once of each image that could not be read."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def report(self, paths: Iterable[str]) -> None:
        """Log those that were not reported before.

        Args:
            paths: images that were skipped.
        """
        for path in paths:
            if path not in self._told:
                self._told.add(path)
                logger.warning("Skipped %r, which cannot be read; DATALOADER.ON_BAD_IMAGE error tells why", path)


def batch_loader(
    images: Dataset[Any], batches: Iterable[Any], *, num_workers: int, pin_memory: bool, persistent: bool = False
) -> DataLoader[Any]:
    """A DataLoader over whole batches: `images.__getitems__(chosen)` for each `chosen` of `batches`.

    Workers are forked where the system can: they then share the cache of decoded images and start at once. No global
    random number is drawn, so that a resumed run goes on with the numbers of an uninterrupted one.

    Args:
        images: a data set with `__getitems__`.
        batches: what to ask for; iterated anew, in this process, each time the loader is.
        num_workers: processes that load; 0 = this one.
        pin_memory: page-locked batches.
        persistent: keep the workers from one iteration to the next.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=persistent and num_workers > 0,
        generator=torch.Generator(),  # of the workers' seeds, which nobody uses
        multiprocessing_context=START_METHOD if num_workers else None,
        worker_init_fn=_outlive_signals if sys.platform == "linux" else None,
    )


def _outlive_signals(_worker: int) -> None:
    """Stop for the main process alone: a scheduler's SIGTERM, like Ctrl-C, comes to all, and main has yet to save."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo(STOPS).si_pid != os.getppid():
        pass
    os._exit(0)


def _as_is(batch: Any) -> Any:
    return batch
