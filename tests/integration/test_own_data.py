"""Images of which nobody knows the identities, tables instead of folders, and identities that must not be looked at."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from commands import call

from mlt.data.datasets import read_dataset
from mlt.utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
SHORT = ("SOLVER.MAX_EPOCH", 2, "PSEUDO_LABELS.ROUNDS", 1)


def write_table(path: Path, data: Path, splits: tuple[str, ...] = ("train",), seed: int | None = None) -> str:
    """A Market-style folder as csv@FILE; with a seed the pids of "train" are shuffled."""
    found = read_dataset(f"Market1501@{data}", root="")
    chance = random.Random(seed)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "pid", "camid", "split"])
        for split in splits:
            records = getattr(found, split)
            pids = [record.pid for record in records]
            if seed is not None and split == "train":
                chance.shuffle(pids)
            table.writerows([r.path, pid, r.camid, split] for r, pid in zip(records, pids, strict=True))
    return f"csv@{path}"


def test_crops_without_identity_camera_or_test_set(stage_two: list[str], world: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    shutil.copytree(world / "station" / "bounding_box_train", crops)
    run = tmp_path / "run"
    sets = ("DATASETS.TARGETS", f"('Folder@{crops}',)", "DATASETS.TESTS", f"('Folder@{crops}',)")
    words = ("PSEUDO_LABELS.CAMERA_CENTERING", True, "LABEL_TRANSPORT.ENABLED", False, "PSEUDO_LABELS.PERIOD", 1)
    text = call(tmp_path / "log", *stage_two, *sets, *words, "SOLVER.MAX_EPOCH", 2, "OUTPUT_DIR", run)
    assert text.count("labels/clusters") == 2
    for said in ("Camera centring is off", "Some cameras are unknown", "has no query or no gallery: not evaluated"):
        assert text.count(said) == 1, said
    assert "NMI" not in text
    results = json.loads((run / "results.json").read_text())
    assert results["last"]["results"] == results["best"]["results"] == {}
    assert results["best"] == {"epoch": 2, "chosen_by": "nothing: the last epoch is taken", "results": {}}
    best, final = (load_checkpoint(run / f"model_{name}.pth") for name in ("best", "final"))
    assert best["iteration"] == final["iteration"] == 6


def test_no_test_set_at_all(stage_two: list[str], tmp_path: Path) -> None:
    call(tmp_path / "log", *stage_two, "DATASETS.TESTS", "()", *SHORT, "OUTPUT_DIR", tmp_path / "run")
    assert (tmp_path / "run" / "model_best.pth").is_file()


def test_tables_train_the_same_bits_as_folders(
    stage_two: list[str], full_run: Path, world: Path, tmp_path: Path
) -> None:
    """Stage II with csv@ sets, and target identities shuffled: only the logged quality may differ."""
    source = write_table(tmp_path / "source.csv", world / "campus")
    target = write_table(tmp_path / "target.csv", world / "station", ("train", "query", "gallery"), seed=1)
    sets = (
        "DATASETS.NAMES",
        f"('{source}',)",
        "DATASETS.TARGETS",
        f"('{target}',)",
        "DATASETS.TESTS",
        f"('{target}',)",
    )
    call(tmp_path / "log", *stage_two, *sets, "OUTPUT_DIR", tmp_path / "run")
    one, two = (load_checkpoint(run / "model_final.pth") for run in (full_run, tmp_path / "run"))
    for name, value in one["model"].items():
        assert torch.equal(two["model"][name], value), name
    labels = [state["hooks"]["PseudoLabelHook"] for state in (one, two)]
    assert torch.equal(labels[0]["labels"], labels[1]["labels"])
    for figure in ("clusters", "size_min", "size_median", "size_max", "churn"):
        assert labels[0]["quality"][figure] == labels[1]["quality"][figure]
    assert labels[0]["quality"]["NMI"] != labels[1]["quality"]["NMI"]
    results = [
        json.loads((run / "results.json").read_text())["last"]["results"] for run in (full_run, tmp_path / "run")
    ]
    assert list(results[0].values()) == list(results[1].values())


def test_source_images_without_identity_are_left_out(stage_two: list[str], world: Path, tmp_path: Path) -> None:
    table = tmp_path / "source.csv"
    write_table(table, world / "campus")
    rows = table.read_text().splitlines()
    path, _, camid, split = rows[-1].split(",")
    table.write_text("\n".join([*rows[:-1], f"{path},,{camid},{split}"]) + "\n")
    words = ("DATASETS.NAMES", f"('csv@{table}',)", *SHORT, "OUTPUT_DIR", tmp_path / "run")
    call(tmp_path / "log", *stage_two, *words)
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["model"]["memory.prototypes"].shape[0] == 8


def test_stage_one_of_a_source_without_test_set_is_not_chosen_by_the_target(world: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "source.csv", world / "campus")
    words = ("DATASETS.NAMES", f"('{source}',)", *SHORT, "OUTPUT_DIR", tmp_path / "run")
    call(tmp_path / "log", "--config-file", world / "mlt.yml", *words)
    results = json.loads(next((tmp_path / "run").glob("pretrain/*/results.json")).read_text())
    assert results["best"]["chosen_by"] == "nothing: the last epoch is taken"
    assert list(results["best"]["results"]) == [f"Market1501@{world}/station"]  # shown all the same
