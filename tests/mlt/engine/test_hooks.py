from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mlt.engine import hooks
from mlt.engine.train_loop import HookBase, TrainLoop
from mlt.utils.events import EventStorage


class Loop(TrainLoop):
    def epoch_batches(self, epoch: int, start: int) -> Iterator[dict]:
        return iter([{}] * (self.iters_per_epoch - start))

    def run_step(self, batch: dict) -> None:
        pass


def run(*parts: HookBase, max_epoch: int = 4, iters_per_epoch: int = 3, start: int = 0) -> Loop:
    loop = Loop(max_epoch, iters_per_epoch)
    loop.iter = start
    loop.register_hooks(parts)
    loop.train()
    return loop


class At(HookBase):
    """Does something after a step."""

    def __init__(self, step: int, action) -> None:
        self.step, self.action = step, action

    def after_step(self) -> None:
        if self.trainer.iter == self.step:
            self.action()


def results(metric: float) -> dict:
    return {
        "set": {"teacher": {**dict.fromkeys(("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"), metric), "metric": metric}}
    }


class TestStopOnSignal:
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_stops_after_the_step_and_gives_the_signal_back(self, signum, caplog):
        before = signal.getsignal(signum)
        with caplog.at_level(logging.WARNING):
            loop = run(At(2, lambda: os.kill(os.getpid(), signum)), hooks.StopOnSignal())
        assert (loop.iter, loop.stopping, loop.finished) == (2, True, False)
        assert f"got {signum.name}: saving after this step" in caplog.text
        assert signal.getsignal(signum) is before

    def test_second_ctrl_c_stops_at_once(self):
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            run(At(2, twice), hooks.StopOnSignal())

    def test_one_that_comes_after_the_last_step_is_still_told(self):
        class Late(HookBase):
            def after_epoch(self) -> None:
                os.kill(os.getpid(), signal.SIGTERM)

        loop = run(hooks.StopOnSignal(), Late(), max_epoch=1)
        assert loop.finished
        assert loop.stopping

    def test_without_a_signal_nothing_stops(self):
        loop = run(hooks.StopOnSignal())
        assert loop.finished
        assert not loop.stopping


class TestPeriodicReset:
    @pytest.mark.parametrize(("period", "epochs"), [(0, []), (1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
    def test_epochs(self, period, epochs):
        done = []
        hook = hooks.PeriodicReset(lambda: done.append(hook.trainer.epoch), period)
        run(hook)
        assert done == epochs

    @pytest.mark.parametrize(("start", "epochs"), [(1, [1, 2, 3]), (3, [1, 2, 3]), (4, [2, 3])])
    def test_not_within_an_epoch(self, start, epochs):
        done = []
        hook = hooks.PeriodicReset(lambda: done.append(hook.trainer.epoch), 1)
        run(hook, start=start)
        assert done == epochs


class TestEvalHook:
    @pytest.mark.parametrize(("period", "epochs"), [(0, [3]), (1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2, 3])])
    def test_epochs(self, period, epochs):
        done = []

        def evaluate() -> dict:
            done.append(hook.trainer.epoch)
            return results(1.0)

        hook = hooks.EvalHook(evaluate, period, ("set", ["teacher"]))
        run(hook)
        assert done == epochs

    def test_the_first_of_equal_ones_is_the_best(self):
        scores = iter([1.0, 3.0, 3.0, 2.0])
        hook = hooks.EvalHook(lambda: results(next(scores)), 1, ("set", ["teacher"]))
        best = []

        class Asks(HookBase):
            def after_epoch(self) -> None:
                best.append(hook.is_best)

        run(hook, Asks())
        assert best == [True, True, False, False]
        assert hook.summary() == {
            "last": {"epoch": 4, "results": results(2.0)},
            "best": {
                "epoch": 2,
                "chosen_by": "(mAP + Rank-1) / 2 of the teacher on the test split of set",
                "results": results(3.0),
            },
        }

    def test_the_better_of_two_nets_chooses(self) -> None:
        scores = iter([(3.0, 1.0), (2.0, 2.5), (1.0, 4.0), (3.5, 3.5)])

        def evaluate() -> dict:
            second, first = (results(score)["set"]["teacher"] for score in next(scores))
            return {"set": {"teacher 2": second, "teacher": first}}

        hook = hooks.EvalHook(evaluate, 1, ("set", ["teacher 2", "teacher"]))
        run(hook)
        assert hook.summary()["best"]["epoch"] == 3
        assert "of the teacher 2 or the teacher on" in hook.summary()["best"]["chosen_by"]

    def test_between_evaluations_nothing_is_best(self):
        hook = hooks.EvalHook(lambda: results(1.0), 2, ("set", ["teacher"]))
        best = []

        class Asks(HookBase):
            def after_epoch(self) -> None:
                best.append(hook.is_best)

        run(hook, Asks())
        assert best == [False, True, False, False]

    def test_with_nothing_to_choose_by_the_last_is_best(self):
        scores = iter([3.0, 1.0])
        hook = hooks.EvalHook(lambda: results(next(scores)), 2, None)
        best = []

        class Asks(HookBase):
            def after_epoch(self) -> None:
                best.append(hook.is_best)

        run(hook, Asks())
        assert best == [True] * 4
        assert hook.summary()["best"] == {
            "epoch": 4, "chosen_by": "nothing: the last epoch is taken", "results": results(1.0)
        }  # fmt: skip

    def test_without_any_test_set(self, caplog):
        hook = hooks.EvalHook(dict, 1, None)
        with caplog.at_level(logging.INFO):
            run(hook)
        assert hook.is_best
        assert hook.summary()["last"] == {"epoch": 4, "results": {}}
        assert "Dataset" not in caplog.text

    def test_state_goes_around(self):
        scores = iter([3.0, 1.0])
        hook = hooks.EvalHook(lambda: results(next(scores)), 2, ("set", ["teacher"]))
        run(hook)
        other = hooks.EvalHook(lambda: results(2.0), 2, ("set", ["teacher"]))
        other.load_state_dict(hook.state_dict())
        assert other.summary() == hook.summary()
        run(other, max_epoch=5, start=12)
        assert other.summary()["best"]["epoch"] == 2

    def test_another_test_set_chooses_anew(self, caplog):
        """Also the same one in another folder, which is a part of its name."""
        hook = hooks.EvalHook(lambda: results(3.0), 1, ("set", ["teacher"]))
        run(hook, max_epoch=1)
        scores = iter([1.0, 2.0])
        other = hooks.EvalHook(lambda: {"moved": results(next(scores))["set"]}, 1, ("moved", ["teacher"]))
        with caplog.at_level(logging.WARNING):
            other.load_state_dict(hook.state_dict())
        assert "moved was not evaluated so far: the best epoch is chosen anew" in caplog.text
        run(other, max_epoch=3, start=3)
        assert other.summary()["best"] == other.summary()["last"] | {"chosen_by": other.summary()["best"]["chosen_by"]}


class TestCheckpointHook:
    @staticmethod
    def saved(*, best: tuple[int, ...] = (), period: int = 0, stop: int = 99, start: int = 0) -> list[tuple]:
        done: list[tuple] = []
        hook = hooks.CheckpointHook(
            lambda names: done.append((hook.trainer.iter, *names)), lambda: hook.trainer.epoch in best, period
        )

        class Stop(HookBase):
            def after_step(self) -> None:
                self.trainer.stopping = self.trainer.iter == stop

        run(Stop(), hook, max_epoch=3, iters_per_epoch=2, start=start)
        return done

    def test_last_after_every_epoch_and_final_once(self):
        assert self.saved() == [(2, "model_last"), (4, "model_last"), (6, "model_final", "model_last")]

    def test_the_one_to_resume_from_comes_after_all_others(self):
        saved = self.saved(best=(0, 2), period=1)
        assert saved == [
            (2, "model_best", "model_0000", "model_last"),
            (4, "model_0001", "model_last"),
            (6, "model_best", "model_0002", "model_final", "model_last"),
        ]

    @pytest.mark.parametrize("stop", [3, 4])
    def test_a_stopped_run_is_saved_once(self, stop):
        assert self.saved(stop=stop) == [(2, "model_last"), (stop, "model_last")]


class TestProgress:
    def test_points_and_results(self, tmp_path):
        events = EventStorage(tmp_path)
        hook = hooks.Progress(events, lambda: {"answer": hook.trainer.epoch}, str(tmp_path), period=2)
        run(At(2, lambda: events.put({"a": 1.0})), At2(3, lambda: events.put({"a": 5.0})), hook, max_epoch=2)
        lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
        assert lines == [{"iteration": 2, "a": 1.0}, {"iteration": 3, "a": 5.0}]
        assert json.loads((tmp_path / "results.json").read_text()) == {"answer": 1}
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []

    def test_what_was_seen_before_a_stop_is_written(self, tmp_path):
        class Stop(HookBase):
            def after_step(self) -> None:
                events.put({"a": 1.0})
                self.trainer.stopping = True

        events = EventStorage(tmp_path)
        run(Stop(), hooks.Progress(events, dict, str(tmp_path), period=20))
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"iteration": 1, "a": 1.0}

    def test_bar_on_a_terminal(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        run(hooks.Progress(EventStorage(), dict, str(tmp_path), 20), max_epoch=2, start=1)
        assert "epoch 1/2" in capsys.readouterr().err


class At2(At):
    """A second `At`, as each class is registered once."""


def test_batch_norm_average_leaves_one_process_as_it_is():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    net[0](torch.randn(5, 3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    run(hooks.BatchNormAverage(net))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
