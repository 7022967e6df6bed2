"""What happens beside the step: BN averaging, moment resets, evaluation, checkpoints, progress."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from tqdm import tqdm

from mlt.engine.evaluate import Results
from mlt.engine.extract import average_batch_norm
from mlt.engine.train_loop import HookBase
from mlt.evaluation.report import format_table
from mlt.utils import comm
from mlt.utils.events import EventStorage
from mlt.utils.files import atomic

logger = logging.getLogger(__name__)
NEWEST = "model_last"  # the checkpoint from which a run goes on


class StopOnSignal(HookBase):
    """Turn SIGTERM, and the first Ctrl-C, into a stop after the current step, on all processes alike.

    Register it first: other hooks read `trainer.stopping`.

    Args:
        period: steps between the processes' agreement; one process alone reacts at once.
    """

    def __init__(self, period: int = 20) -> None:
        self.period = period
        self._asked = False
        self._held: dict[int, Any] = {}

    def before_train(self) -> None:
        """Take over the signals (the main thread only may)."""
        if threading.current_thread() is threading.main_thread():
            self._held = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}

    def _ask(self, signum: int, _frame: Any) -> None:
        if self._asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        logger.warning("got %s: saving after this step", signal.Signals(signum).name)
        self._asked = True

    def after_step(self) -> None:
        """Agree on stopping."""
        if not comm.active():
            self.trainer.stopping = self._asked
        elif self.trainer.iter % self.period == 0 or self.trainer.iter % self.trainer.iters_per_epoch == 0:
            self.trainer.stopping = any(comm.gather_object(self._asked))

    def after_train(self) -> None:
        """Give the signals back. One that came too late to stop this loop must stop what comes next."""
        self.trainer.stopping = self.trainer.stopping or self._asked
        for signum, handler in self._held.items():
            signal.signal(signum, handler)


class PeriodicReset(HookBase):
    """Zero the optimizer's moments every few epochs, as released GLT and MMT do by making it anew.

    Args:
        reset: zeroes all moments.
        period: epochs; 0 = never.
    """

    def __init__(self, reset: Callable[[], None], period: int) -> None:
        self.reset = reset
        self.period = period

    def before_epoch(self) -> None:
        """Reset at the start of an epoch, once; a resumed epoch has its own moments."""
        trainer = self.trainer
        if self.period and trainer.iter % trainer.iters_per_epoch == 0 and trainer.epoch % self.period == 0:
            self.reset()


class BatchNormAverage(HookBase):
    """Average running BN statistics over the processes at the end of an epoch.

    Args:
        model: its BN statistics are averaged in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def after_epoch(self) -> None:
        """One small all-reduce."""
        average_batch_norm(self.model)


class EvalHook(HookBase):
    """Evaluate every `period` epochs and after the last; remember the best.

    Args:
        evaluate: returns set -> net -> metrics.
        period: epochs; 0 = only after the last.
        chooser: a set and the nets of which the better one's "metric", (mAP + Rank-1) / 2 as in FastReID, chooses the
            best epoch; None = there is none, and the last counts as best.
    """

    def __init__(self, evaluate: Callable[[], Results], period: int, chooser: tuple[str, Sequence[str]] | None) -> None:
        self.evaluate = evaluate
        self.period = period
        self.chooser = chooser
        self.last: Results = {}
        self.best: Results = {}
        self.best_epoch = -1
        self.last_epoch = -1

    def after_epoch(self) -> None:
        """Evaluate when it is time."""
        epoch = self.trainer.epoch
        final = epoch + 1 == self.trainer.max_epoch
        if not (final or (self.period and (epoch + 1) % self.period == 0)):
            return
        self.last, self.last_epoch = self.evaluate(), epoch
        if self._improved():
            self.best, self.best_epoch = self.last, epoch
        if self.last and comm.is_main():
            best = self.summary()["best"]
            text = "after epoch %d; the best is epoch %d, chosen by %s:\n%s"
            logger.info(text, epoch + 1, best["epoch"], best["chosen_by"], format_table(self.last))

    def _improved(self) -> bool:
        if self.chooser is None or not self.best:
            return True
        name, nets = self.chooser
        last, best = (max(results[name][net]["metric"] for net in nets) for results in (self.last, self.best))
        return last > best

    @property
    def is_best(self) -> bool:
        """Whether the epoch that just ended is the best so far."""
        return self.chooser is None or self.best_epoch == self.trainer.epoch

    def summary(self) -> dict[str, Any]:
        """Last and best results with the epoch of each (counted from 1) and what chose the best."""
        chosen = "nothing: the last epoch is taken"
        if self.chooser:
            name, nets = self.chooser
            chosen = f"(mAP + Rank-1) / 2 of the {' or the '.join(nets)} on the test split of {name}"
        return {
            "last": {"epoch": self.last_epoch + 1, "results": self.last},
            "best": {"epoch": self.best_epoch + 1, "chosen_by": chosen, "results": self.best},
        }

    def state_dict(self) -> dict[str, Any]:
        """Last and best results."""
        return {"last": self.last, "best": self.best, "last_epoch": self.last_epoch, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Args:
            state: as `state_dict` returned it.
        """
        self.last, self.best = state["last"], state["best"]
        self.last_epoch, self.best_epoch = state["last_epoch"], state["best_epoch"]
        if self.chooser and self.best and self.chooser[0] not in self.best:  # DATASETS.TESTS has changed since
            logger.warning("%s was not evaluated so far: the best epoch is chosen anew by it", self.chooser[0])
            self.best, self.best_epoch = {}, -1


class CheckpointHook(HookBase):
    """Save the whole state after every epoch, and when the run is told to stop.

    Args:
        save: writes one checkpoint under several names, atomically; the run goes on from the last of them.
        is_best: whether the epoch that just ended is the best so far.
        period: epochs between numbered checkpoints; 0 = none.
    """

    def __init__(self, save: Callable[[Sequence[str]], None], is_best: Callable[[], bool], period: int) -> None:
        self.save = save
        self.is_best = is_best
        self.period = period

    def after_step(self) -> None:
        """Told to stop in the middle of an epoch: save where we are."""
        if self.trainer.stopping and self.trainer.iter % self.trainer.iters_per_epoch:
            self.save([NEWEST])

    def after_epoch(self) -> None:
        """The last one always; best, numbered and final ones when it is time."""
        epoch = self.trainer.epoch
        names = ["model_best"] if self.is_best() else []
        if self.period and (epoch + 1) % self.period == 0:
            names.append(f"model_{epoch:04d}")
        if epoch + 1 == self.trainer.max_epoch:
            names.append("model_final")
        self.save([*names, NEWEST])


class Progress(HookBase):
    """Write losses and rates: a bar on a terminal, a line an epoch in the log, metrics.json and TensorBoard.

    Args:
        events: where the numbers are.
        summary: what results.json holds at the end of an epoch.
        output_dir: folder of results.json.
        period: steps between written points.
    """

    def __init__(
        self, events: EventStorage, summary: Callable[[], dict[str, Any]], output_dir: str, period: int
    ) -> None:
        self.events = events
        self.summary = summary
        self.output_dir = output_dir
        self.period = period
        self._bar: Any = None

    def before_epoch(self) -> None:
        """Open the bar."""
        trainer = self.trainer
        if comm.is_main() and sys.stderr.isatty():
            self._bar = tqdm(
                total=trainer.iters_per_epoch,
                initial=trainer.iter % trainer.iters_per_epoch,
                desc=f"epoch {trainer.epoch + 1}/{trainer.max_epoch}",
                leave=False,
            )

    def after_step(self) -> None:
        """Advance the bar; write a point every `period` steps, and before leaving."""
        if self._bar is not None:
            self._bar.update()
        if self.trainer.iter % self.period == 0 or self.trainer.stopping:
            self.events.write(self.trainer.iter)

    def after_epoch(self) -> None:
        """Write the epoch's numbers."""
        self._close()
        self.events.write(self.trainer.iter)
        if comm.is_main():
            with atomic(os.path.join(self.output_dir, "results.json")) as temporary:
                temporary.write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")

    def after_train(self) -> None:
        """Close what is open."""
        self._close()
        self.events.close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
