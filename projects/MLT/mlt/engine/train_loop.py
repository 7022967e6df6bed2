"""A training loop that knows nothing of models: epochs, steps, and hooks at six moments."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from mlt.structures import Batch


class HookBase:
    """Something that happens at given moments of training.

    The six moments are FastReID's: before/after train, epoch and step. Hooks of one moment run in the order in
    which they were registered. `before_epoch` is also called when a run resumes in the middle of an epoch.

    Attributes:
        trainer: the loop it is registered with.
    """

    trainer: TrainLoop

    def before_train(self) -> None:
        """Called once, before the first epoch."""

    def before_epoch(self) -> None:
        """Called before the loader of `trainer.epoch` is asked for batches."""

    def before_step(self) -> None:
        """Called before each step; cheap work only."""

    def after_step(self) -> None:
        """Called after each step; cheap work only."""

    def after_epoch(self) -> None:
        """Called after the last step of `trainer.epoch`."""

    def after_train(self) -> None:
        """Called once at the end, also after an error: for closing files, never for work that counts."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of this hook: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Args:
            state: as `state_dict` returned it.
        """


class TrainLoop:
    """Runs `max_epoch` epochs of `iters_per_epoch` steps and calls the hooks.

    Subclasses give `epoch_batches` and `run_step`.

    Attributes:
        iter: steps done so far in the whole run; `epoch` is the running epoch, counted from 0.
        stopping: set by a hook, on all processes in the same step, to leave the loop after that step.
        finished: True once the last epoch is through.
    """

    def __init__(self, max_epoch: int, iters_per_epoch: int) -> None:
        self.max_epoch = max_epoch
        self.iters_per_epoch = iters_per_epoch
        self.iter = 0
        self.epoch = 0
        self.stopping = False
        self.finished = False
        self.hooks: dict[str, HookBase] = {}

    @property
    def max_iter(self) -> int:
        """Steps of the whole run."""
        return self.max_epoch * self.iters_per_epoch

    def register_hooks(self, hooks: Iterable[HookBase]) -> None:
        """Add hooks, in order. Each class may be registered once: its name keys its state in checkpoints.

        Args:
            hooks: the hooks.

        Raises:
            ValueError: a second hook of a class.
        """
        for hook in hooks:
            name = type(hook).__name__
            if name in self.hooks:
                raise ValueError(f"a {name} is registered already; its state would be lost in checkpoints")
            hook.trainer = weakref.proxy(self)
            self.hooks[name] = hook

    def train(self) -> None:
        """Run from `self.iter` to the end, or until `self.stopping` is set."""
        try:
            self._call("before_train")
            for epoch in range(self.iter // self.iters_per_epoch, self.max_epoch):
                self.epoch = epoch
                self._call("before_epoch")
                for batch in self.epoch_batches(epoch, self.iter % self.iters_per_epoch):
                    self._call("before_step")
                    self.run_step(batch)
                    self.iter += 1
                    self._call("after_step")
                    if self.stopping and self.iter % self.iters_per_epoch:
                        return
                self._call("after_epoch")
                if self.stopping and epoch + 1 < self.max_epoch:
                    return
            self.finished = True
        finally:
            self._call("after_train")

    def epoch_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on.

        Args:
            epoch: epoch number.
            start: steps of this epoch that are done already.
        """
        raise TypeError(f"{type(self).__name__} must define epoch_batches")

    def run_step(self, batch: Batch) -> None:
        """One optimisation step.

        Args:
            batch: what `epoch_batches` yields.
        """
        raise TypeError(f"{type(self).__name__} must define run_step")

    def _call(self, moment: str) -> None:
        for hook in self.hooks.values():
            getattr(hook, moment)()
