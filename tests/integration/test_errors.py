"""Whatever a user gets wrong ends in one message that names the thing and the remedy, and in exit code 2."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, call, fail

Fail = Callable[..., str]


@pytest.fixture
def failing(stage_two: list[str], tmp_path: Path) -> Fail:
    """Stage II with further words, which must fail; returns the message, without the log before it."""

    def run(*words: Any, flags: tuple[Any, ...] = ()) -> str:
        out = tmp_path / "run"
        text = fail(tmp_path / "log", *stage_two[:2], *flags, *stage_two[2:], "OUTPUT_DIR", out, *words)
        assert text.count("error: ") == 1, text
        assert list(out.glob("*.pth")) == []
        return text[text.index("error: ") :]

    return run


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("duke2market", "DukeMTMC"),
        ("market2duke", "Market1501"),
        ("duke2msmt", "DukeMTMC"),
        ("market2msmt", "Market1501"),
    ],
)
def test_paper_configs_without_data_say_what_is_missing(tmp_path: Path, name: str, sets: str) -> None:
    words = ["MODEL.DEVICE", "cpu", "DATASETS.ROOT", tmp_path / "sets", "OUTPUT_DIR", tmp_path / "run"]
    text = fail(tmp_path / "log", "--config-file", ROOT / "configs" / "MLT" / f"{name}.yml", *words)
    assert f"error: {sets} is not there. Looked in\n  {tmp_path}/sets/" in text
    for words in ("Expected\n", "bounding_box_train", "DATASETS.ROOT or FASTREID_DATASETS", "is described in"):
        assert words in text


def test_unknown_keys(failing: Fail, world: Path, tmp_path: Path) -> None:
    assert "'SOLVER.BASE_LT'. Did you mean 'SOLVER.BASE_LR'" in failing("SOLVER.BASE_LT", 1)
    (tmp_path / "bad.yml").write_text(f"_BASE_: {world}/mlt.yml\nMODEL:\n  BACKBONE:\n    DEEPTH: 10x\n")
    text = fail(tmp_path / "log", "--config-file", tmp_path / "bad.yml")
    assert "'MODEL.BACKBONE.DEEPTH'. Did you mean 'MODEL.BACKBONE.DEPTH'" in text
    assert "It is set in" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there(failing: Fail) -> None:
    assert "0 CUDA devices are visible. Add `MODEL.DEVICE cpu`" in failing("MODEL.DEVICE", "cuda")
    assert "--num-gpus 4 with" in failing("MODEL.DEVICE", "cuda", flags=("--num-gpus", 4))


def test_evaluation_needs_weights_and_a_test_set(failing: Fail, stage_one: Path, world: Path) -> None:
    assert "--eval-only needs weights: add MODEL.WEIGHTS" in failing(flags=("--eval-only",))
    assert "No checkpoint 'gone.pth'" in failing("MODEL.WEIGHTS", "gone.pth", flags=("--eval-only",))
    text = failing(
        *("MODEL.WEIGHTS", stage_one, "DATASETS.TESTS", f"('Folder@{world}/station',)"), flags=("--eval-only",)
    )
    assert "no set of DATASETS.TESTS" in text


def test_weights_that_match_nothing(failing: Fail, tmp_path: Path) -> None:
    torch.save({"backbone.other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert "other.pth fits the model: it has" in failing("PRETRAIN.WEIGHTS", f"['{tmp_path}/other.pth']")
    assert "'gone.pth', which is not there" in failing("PRETRAIN.WEIGHTS", "['gone.pth']")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image(failing: Fail, world: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(world / "station", tmp_path / "station")
    broken = sorted((tmp_path / "station" / "bounding_box_train").iterdir())[7]
    broken.write_bytes(broken.read_bytes()[:200])
    words = ("DATASETS.TARGETS", f"('Market1501@{tmp_path}/station',)", "DATALOADER.NUM_WORKERS", workers)
    text = failing(*words)
    assert f"Cannot read image '{broken}'" in text
    assert "DATALOADER.ON_BAD_IMAGE skip" in text


def test_a_broken_image_may_be_skipped(stage_two: list[str], world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "station", tmp_path / "station")
    broken = sorted((tmp_path / "station" / "bounding_box_train").iterdir())[7]
    broken.write_bytes(b"")
    words = ("DATASETS.TARGETS", f"('Market1501@{tmp_path}/station',)", "DATALOADER.ON_BAD_IMAGE", "skip")
    text = call(tmp_path / "log", *stage_two, *words, "PSEUDO_LABELS.ROUNDS", 1, "OUTPUT_DIR", tmp_path / "run")
    assert f"Skipped '{broken}'" in text


def test_a_loss_that_is_no_number(failing: Fail) -> None:
    text = failing("SOLVER.BASE_LR", 1e30)
    assert "loss_" in text
    assert " is nan at step " in text
    assert "Try a lower SOLVER.BASE_LR" in text


def test_too_few_identities(failing: Fail) -> None:
    text = failing("SOLVER.IMS_PER_BATCH", 64)
    assert (
        "8 identities with images, but a batch needs 16 = SOLVER.IMS_PER_BATCH 64 / DATALOADER.NUM_INSTANCE 4" in text
    )
    assert "The clustering has collapsed" in failing("PSEUDO_LABELS.NUM_CLUSTERS", "(2, 3, 2)")


def test_a_folder_that_holds_a_run(full_run: Path, stage_two: list[str], tmp_path: Path) -> None:
    before = sorted(os.listdir(full_run))
    text = fail(tmp_path / "log", *stage_two, "OUTPUT_DIR", full_run)
    assert f"OUTPUT_DIR {full_run} already holds a run. Add --resume" in text
    assert sorted(os.listdir(full_run)) == before


def test_a_checkpoint_of_another_model(full_run: Path, stage_two: list[str], tmp_path: Path) -> None:
    shutil.copytree(full_run, tmp_path / "run")
    words = [*stage_two[:2], "--resume", *stage_two[2:], "OUTPUT_DIR", tmp_path / "run"]
    text = fail(tmp_path / "log", *words, "PSEUDO_LABELS.NUM_CLUSTERS", "(6, 8, 11)")
    assert "model_last.pth does not fit this config" in text


def test_two_processes_tell_once(failing: Fail) -> None:
    text = failing("DATASETS.NAMES", "('Market1501@/nowhere',)", flags=("--num-gpus", 2))
    assert "/nowhere: no such folder" in text
    assert "Terminating process" not in text


def test_the_traceback_is_in_the_log_file(failing: Fail, tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.txt"
    assert f"(where it happened: {log})" in failing("SOLVER.BASE_LR", 1e30)
    assert "Traceback (most recent call last)" in log.read_text()
    assert "where it happened" not in failing("SEDE", 1)  # before there is a log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("PSEUDO_LABELS.GROUP", 3), "PSEUDO_LABELS.GROUP 3 is none of the 3 groups"),
        (("SOLVER.OPT", "Adan"), "No optimizer 'Adan'"),
        (("DATASETS.NAMES", "('Folder@{world}/campus',)"), "campus has no training images of known identity"),
        (("PRETRAIN.SEEDS", "(1, 2)"), "PRETRAIN.SEEDS has 2 entries"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_of_stage_two_show_before_stage_one(
    world: Path, tmp_path: Path, words: tuple[str, object], message: str
) -> None:
    given = [str(word).format(world=world) for word in words]
    text = fail(tmp_path / "log", "--config-file", world / "mlt.yml", "OUTPUT_DIR", tmp_path / "run", *given)
    assert message in text
    assert not (tmp_path / "run" / "pretrain").exists()
