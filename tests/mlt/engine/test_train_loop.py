from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlt.engine.train_loop import HookBase, TrainLoop

MOMENTS = ("before_train", "before_epoch", "before_step", "after_step", "after_epoch", "after_train")


class Loop(TrainLoop):
    """Writes down what happens."""

    def __init__(self, max_epoch: int = 2, iters_per_epoch: int = 2) -> None:
        super().__init__(max_epoch, iters_per_epoch)
        self.seen: list[object] = []

    def epoch_batches(self, epoch: int, start: int) -> Iterator[dict[str, int]]:
        self.seen.append(("batches", epoch, start))
        return iter([{"number": number} for number in range(start, self.iters_per_epoch)])

    def run_step(self, batch: dict[str, int]) -> None:
        self.seen.append(("step", self.epoch, batch["number"]))


class Recorder(HookBase):
    """Writes each moment into the loop's list."""

    def __getattribute__(self, name: str):
        if name in MOMENTS:
            return lambda: self.trainer.seen.append(name)
        return super().__getattribute__(name)


class Stopper(HookBase):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self) -> None:
        self.trainer.stopping = self.trainer.iter >= self.step


class Breaker(HookBase):
    def after_step(self) -> None:
        raise RuntimeError("broken")


def test_six_moments_in_order():
    loop = Loop(max_epoch=1)
    loop.register_hooks([Recorder()])
    loop.train()
    step = lambda number: ["before_step", ("step", 0, number), "after_step"]  # noqa: E731
    assert loop.seen == [
        "before_train", "before_epoch", ("batches", 0, 0), *step(0), *step(1), "after_epoch", "after_train"
    ]  # fmt: skip
    assert loop.finished
    assert loop.iter == loop.max_iter == 2


def test_hooks_of_one_moment_run_in_the_order_of_registration():
    class First(HookBase):
        def before_step(self) -> None:
            self.trainer.seen.append("first")

    class Second(HookBase):
        def before_step(self) -> None:
            self.trainer.seen.append("second")

    loop = Loop(1, 1)
    loop.register_hooks([First()])
    loop.register_hooks([Second()])
    loop.train()
    assert loop.seen[1:3] == ["first", "second"]


def test_resuming_within_an_epoch_asks_for_the_rest_of_it():
    loop = Loop()
    loop.register_hooks([Recorder()])
    loop.iter = 3
    loop.train()
    assert loop.seen == [
        "before_train", "before_epoch", ("batches", 1, 1), "before_step", ("step", 1, 1), "after_step", "after_epoch",
        "after_train",
    ]  # fmt: skip
    assert loop.finished


def test_resuming_between_epochs_starts_the_next():
    loop = Loop()
    loop.iter = 2
    loop.train()
    assert loop.seen == [("batches", 1, 0), ("step", 1, 0), ("step", 1, 1)]


def test_a_finished_run_does_nothing():
    loop = Loop()
    loop.register_hooks([Recorder()])
    loop.iter = loop.max_iter
    loop.train()
    assert loop.seen == ["before_train", "after_train"]
    assert loop.finished


@pytest.mark.parametrize(
    ("step", "steps", "epochs", "finished"),
    [(1, 1, 0, False), (2, 2, 1, False), (3, 3, 1, False), (4, 4, 2, True)],
)
def test_stopping(step, steps, epochs, finished):
    """Within an epoch it is left at once; at its end `after_epoch` still comes; after the last step nothing is left."""
    loop = Loop()
    loop.register_hooks([Stopper(step), Recorder()])
    loop.train()
    assert (loop.iter, loop.seen.count("after_epoch"), loop.finished) == (steps, epochs, finished)
    assert loop.seen[-1] == "after_train"


def test_after_train_is_called_after_an_error():
    loop = Loop()
    loop.register_hooks([Recorder(), Breaker()])
    with pytest.raises(RuntimeError, match="broken"):
        loop.train()
    assert loop.seen[-1] == "after_train"
    assert not loop.finished


def test_a_class_is_registered_once():
    loop = Loop()
    with pytest.raises(ValueError, match="a Breaker is registered already; its state would be lost"):
        loop.register_hooks([Breaker(), Breaker()])


@pytest.mark.parametrize("method", ["epoch_batches", "run_step"])
def test_what_a_subclass_must_define(method):
    with pytest.raises(TypeError, match=f"TrainLoop must define {method}"):
        getattr(TrainLoop(1, 1), method)(*((0, 0) if method == "epoch_batches" else ({},)))


def test_hooks_do_not_keep_the_loop_alive():
    loop, hook = Loop(), Breaker()
    loop.register_hooks([hook])
    del loop
    with pytest.raises(ReferenceError):
        _ = hook.trainer.iter
