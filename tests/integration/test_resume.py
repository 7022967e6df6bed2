"""A run that was stopped, killed, or loaded in another way goes on to the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call, call_group, signal_once_written, start
from compare import assert_same

from mlt.engine import run as engine
from mlt.engine.trainer import Trainer
from mlt.structures import Batch
from mlt.utils import comm
from mlt.utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
ONE_ROUND = ("PSEUDO_LABELS.ROUNDS", 1)  # of a run too short for its second


def assert_same_run(run: Path, reference: Path, *, metrics: bool = True) -> None:
    """All state of all checkpoints, results, and (unless the run was left within an epoch) metrics."""
    for name in ("model_last", "model_final", "model_best", "model_0001", "model_0003"):
        assert_same(load_checkpoint(run / f"{name}.pth"), load_checkpoint(reference / f"{name}.pth"), name)
    assert (run / "results.json").read_text() == (reference / "results.json").read_text()
    if metrics:
        assert (run / "metrics.json").read_text() == (reference / "metrics.json").read_text()


@pytest.fixture(scope="module")
def reference(full_run: Path) -> Path:
    return full_run


@pytest.fixture
def words(stage_two: list[str], tmp_path: Path) -> list[str]:
    return [*stage_two, "OUTPUT_DIR", str(tmp_path / "run")]


def test_n_and_resumed_n_are_2n(words: list[str], reference: Path, tmp_path: Path) -> None:
    call(tmp_path / "log", *words, "SOLVER.MAX_EPOCH", 2, *ONE_ROUND)
    (tmp_path / "run" / "model_final.pth").unlink()
    printed = call(tmp_path / "log", *words[:2], "--resume", *words[2:])
    assert "after step 6 of 12" in printed
    assert_same_run(tmp_path / "run", reference)


def test_n_and_resumed_n_are_2n_with_augmentation_on_the_device(
    words: list[str], reference: Path, tmp_path: Path
) -> None:
    """Also when the second half finds the images of the first decoded, reads them in another way, or decodes anew."""
    two, device = ("SOLVER.MAX_EPOCH", 2, *ONE_ROUND), ("DATALOADER.AUGMENT_ON", "device")
    kept = ("DATALOADER.CACHE_GB", 1.0, "DATALOADER.CACHE_DIR", tmp_path / "cache")
    call(tmp_path / "log", *words[:-1], tmp_path / "whole", *device, *two)
    call(tmp_path / "log", *words, *device, *kept, "DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_EPOCH", 1, *ONE_ROUND)
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 3  # of source, target and test images
    call(tmp_path / "log", *words[:2], "--resume", *words[2:], *device, *kept, "DATALOADER.CACHE_ON", "device", *two)
    for name in ("model_last", "model_final", "model_best", "model_0001"):
        run, whole = (load_checkpoint(tmp_path / folder / f"{name}.pth") for folder in ("run", "whole"))
        assert_same(run, whole, name)
    assert (tmp_path / "run" / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
    theirs = load_checkpoint(reference / "model_0001.pth")["model"]  # the same two epochs with other draws
    assert not all(torch.equal(whole["model"][key], theirs[key]) for key in theirs)


def test_the_number_of_workers_changes_no_bit(words: list[str], reference: Path, tmp_path: Path) -> None:
    call(tmp_path / "log", *words, "DATALOADER.NUM_WORKERS", 2)
    assert_same_run(tmp_path / "run", reference)


def terminate_in_the_second_epoch() -> None:
    """As a scheduler does, to the workers, too."""
    run_step = Trainer.run_step

    def terminated(self: Trainer, batch: Batch) -> None:
        if self.iter == 3:
            os.killpg(0, signal.SIGTERM)
        run_step(self, batch)

    Trainer.run_step = terminated  # type: ignore[method-assign]


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_within_an_epoch_saves_and_leaves(
    words: list[str], reference: Path, tmp_path: Path, workers: int
) -> None:
    run = tmp_path / "run"
    words = [*words, "DATALOADER.NUM_WORKERS", str(workers)]
    command = start(tmp_path / "log", *words, prepare=terminate_in_the_second_epoch)
    assert command.wait() == 143, command.text
    assert "got SIGTERM" in command.text
    assert "go on with --resume" in command.text
    assert "Traceback" not in command.text
    assert load_checkpoint(run / "model_last.pth")["iteration"] == 4
    assert "stopped after step 4 of 12" in command.text
    resumed = call(tmp_path / "log", *words[:2], "--resume", *words[2:])
    assert "after step 4 of 12" in resumed
    assert resumed.count("labels/clusters") == 2  # the epochs 3 and 4; the second keeps its labels
    assert_same_run(run, reference, metrics=False)
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 4, 6, 9, 12]


@pytest.mark.parametrize("name", ["model_best", "model_0001", "model_final"])
def test_killed_between_two_files(words: list[str], reference: Path, tmp_path: Path, name: str) -> None:
    kill = partial(signal_once_written, f"{name}.pth", signal.SIGKILL)
    assert start(tmp_path / "log", *words, prepare=kill).wait() == -signal.SIGKILL
    call(tmp_path / "log", *words[:2], "--resume", *words[2:])
    assert_same_run(tmp_path / "run", reference)


class StoppedTrainer(Trainer):
    """Gets its signal in a given step, on one process only."""

    stop_at = 0

    def run_step(self, batch: Batch) -> None:
        super().run_step(batch)
        stopper: Any = self.hooks["StopOnSignal"]
        stopper.period = 1
        stopper._asked = self.iter + 1 == self.stop_at and comm.rank() == 1


def stop_and_resume(rank: int, words: list[str], folder: str) -> None:
    """What each process does: a run as reference, one that stops within its second epoch, and the rest of that."""
    engine.Trainer = StoppedTrainer  # type: ignore[misc]
    for name, stop_at, resume in (("reference", 0, False), ("run", 5, False), ("run", 0, True)):
        StoppedTrainer.stop_at = stop_at
        cfg = engine.load_cfg(engine.argument_parser().parse_args([*words, "OUTPUT_DIR", f"{folder}/{name}"]))
        try:
            engine.run(cfg, resume=resume)
        except SystemExit as left:
            if left.code != 143:
                raise
            if rank == 0:
                shutil.copy(f"{folder}/run/model_last.pth", f"{folder}/stopped.pth")


@pytest.mark.parametrize("augment_on", ["worker", "device"])
def test_two_processes_stopped_within_an_epoch(stage_two: list[str], tmp_path: Path, augment_on: str) -> None:
    """Each has seen other rows, and so has running statistics of its own until the end of the epoch.

    With augmentation on the device they also fill and read one image store.
    """
    words = [*stage_two, "SOLVER.MAX_EPOCH", "2", "PSEUDO_LABELS.ROUNDS", "1", "SOLVER.IMS_PER_BATCH", "16"]
    if augment_on == "device":
        words += ["DATALOADER.AUGMENT_ON", "device", "DATALOADER.CACHE_GB", "1"]
        words += ["DATALOADER.CACHE_DIR", str(tmp_path / "cache")]
    call_group(2, stop_and_resume, words, str(tmp_path))
    assert len(list((tmp_path / "cache").glob("*.u8"))) == (3 if augment_on == "device" else 0)
    stopped = load_checkpoint(tmp_path / "stopped.pth")
    assert stopped["iteration"] == 5
    first, second = (state["model"]["backbone.bn1.BN_T.running_mean"] for state in stopped["processes"])
    assert not torch.equal(first, second)
    assert "after step 5 of 6" in (tmp_path / "run" / "log.txt").read_text()
    for name in ("model_last", "model_final", "model_best", "model_0001"):
        run, reference = (load_checkpoint(tmp_path / folder / f"{name}.pth") for folder in ("run", "reference"))
        assert_same(run, reference, name)
    assert (tmp_path / "run" / "results.json").read_text() == (tmp_path / "reference" / "results.json").read_text()


def test_killed_at_any_moment(words: list[str], reference: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(6):
        command = start(tmp_path / "log", *words[:2], "--resume", *words[2:])
        time.sleep(chance.uniform(0.2, 1.5))
        command.process.kill()
        command.wait()
    call(tmp_path / "log", *words[:2], "--resume", *words[2:])
    assert_same_run(tmp_path / "run", reference)
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_sigterm_at_the_end_of_stage_one_is_not_forgotten(world: Path, tmp_path: Path) -> None:
    words = ["--config-file", world / "mlt.yml", "OUTPUT_DIR", tmp_path / "run"]
    command = start(tmp_path / "log", *words, prepare=partial(signal_once_written, "model_final.pth", signal.SIGTERM))
    assert command.wait() == 143, command.text
    assert not (tmp_path / "run" / "last_checkpoint").exists()
    assert "Stage I is there" in call(tmp_path / "log", *words, "SOLVER.MAX_EPOCH", 1, *ONE_ROUND)


def test_a_resumed_run_follows_its_config(words: list[str], full_run: Path, tmp_path: Path) -> None:
    call(tmp_path / "log", *words, "SOLVER.MAX_EPOCH", 1, *ONE_ROUND)
    further = ("SOLVER.MAX_EPOCH", 2, "SOLVER.BASE_LR", 0.0005, *ONE_ROUND)
    call(tmp_path / "log", *words[:2], "--resume", *words[2:], *further)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == pytest.approx([0.001, 0.0005])


def test_the_synthetic_recipe_resumes_too(words: list[str], tmp_path: Path) -> None:
    """Other settings, with more state: warm rounds, centroids, averaged BN statistics, AMP, clipping, cosine."""
    run = tmp_path / "run"
    recipe = [
        *("PSEUDO_LABELS.SCHEDULE", "warm", "PSEUDO_LABELS.CAMERA_CENTERING", "True"),
        *("MODEL.HEADS.INIT", "centroid", "MODEL.HEADS.CLS_LAYER", "CosSoftmax", "MODEL.BN_GROUP", "8"),
        *("MEAN_TEACHER.BN_BUFFERS", "ema", "PRETRAIN.ADAPT_BN", "True", "SOLVER.AMP.ENABLED", "True"),
        *("SOLVER.OPT", "AdamW", "SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"),
    ]
    call(tmp_path / "log", *words[:-1], str(tmp_path / "reference"), *recipe)
    kill = partial(signal_once_written, "model_0001.pth", signal.SIGKILL)
    assert start(tmp_path / "log", *words, *recipe, prepare=kill).wait() == -signal.SIGKILL
    call(tmp_path / "log", *words[:2], "--resume", *words[2:], *recipe)
    assert_same_run(run, tmp_path / "reference")
