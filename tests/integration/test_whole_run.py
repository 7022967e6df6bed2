"""From nothing to an adapted model, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call

from mlt.config import get_cfg
from mlt.utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def metric_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def test_stage_one_runs_by_itself_and_then_stage_two(full_run: Path) -> None:
    names = {path.name for path in full_run.iterdir()}
    checkpoints = {"model_last.pth", "model_best.pth", "model_final.pth", "model_0001.pth", "model_0003.pth"}
    assert checkpoints | {"last_checkpoint", "config.yaml", "log.txt", "metrics.json", "results.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]
    stage_one = next(full_run.glob("pretrain/*"))
    assert {"model_best.pth", "model_final.pth", "config.yaml", "metrics.json", "results.json"} <= {
        path.name for path in stage_one.iterdir()
    }
    printed = (full_run / "printed.txt").read_text()
    assert "Stage I is trained first" in printed
    assert "| teacher centred" in printed
    assert printed.count("after epoch") == 6


def test_results_name_nets_sets_epochs_and_what_chose_the_best(full_run: Path, world: Path) -> None:
    found = read(full_run / "results.json")
    name = f"Market1501@{world}/station"
    assert set(found["last"]["results"][name]) == {"student", "student centred", "teacher", "teacher centred"}
    assert found["last"]["epoch"] == 4
    assert found["best"]["chosen_by"] == f"(mAP + Rank-1) / 2 of the teacher on the test split of {name}"
    assert found["best"]["chosen_by"] in (full_run / "printed.txt").read_text()
    metrics = [line[f"{name}/teacher/metric"] for line in metric_lines(full_run)]
    assert found["best"]["epoch"] == 1 + metrics.index(max(metrics))
    assert found["best"]["results"][name]["teacher"]["metric"] == max(metrics)
    assert {"ARI", "NMI", "purity", "clusters", "churn"} <= set(found["labels"])


def test_stage_one_is_chosen_by_the_source(full_run: Path, world: Path) -> None:
    found = read(next(full_run.glob("pretrain/*")) / "results.json")
    by = "(mAP + Rank-1) / 2 of the student on the test split of"
    assert found["best"]["chosen_by"] == f"{by} Market1501@{world}/campus"
    assert set(found["last"]["results"]) == {f"Market1501@{world}/campus", f"Market1501@{world}/station"}


def test_metrics_have_one_line_for_each_epoch(full_run: Path) -> None:
    lines = metric_lines(full_run)
    assert [line["iteration"] for line in lines] == [3, 6, 9, 12]
    for line in lines:
        assert {"loss_cls", "loss_triplet", "loss_prototype", "loss_instance", "lr", "labels/ARI"} <= set(line)
    assert ["transport/iterations" in line for line in lines] == [False, True, False, True]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])


def test_saved_config_reloads_to_the_same_tree(full_run: Path, stage_one: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(full_run / "config.yaml"))
    assert cfg.dump() == (full_run / "config.yaml").read_text()
    assert cfg.MODEL.HEADS.NUM_CLASSES == 8
    assert list(cfg.PRETRAIN.WEIGHTS) == [str(stage_one)]


def test_checkpoints_hold_everything_and_only_tensors_and_plain_values(full_run: Path) -> None:
    state = load_checkpoint(full_run / "model_final.pth")  # weights_only
    assert {"model", "optimizer", "scheduler", "scaler", "hooks", "iteration", "epoch", "processes"} <= set(state)
    assert (state["iteration"], state["epoch"]) == (12, 3)
    prefixes = ("backbone.", "heads.classifiers.2", "teacher.backbone.", "teacher.heads.", "memory.queue")
    assert all(any(key.startswith(prefix) for key in state["model"]) for prefix in prefixes)
    assert state["hooks"]["PseudoLabelHook"]["labels"].shape == (3, 48)
    assert int(state["model"]["teacher.ema_steps"]) == 6  # restarted with the second round


def test_the_final_labels_are_balanced_over_the_clusters(full_run: Path) -> None:
    labels = load_checkpoint(full_run / "model_final.pth")["hooks"]["PseudoLabelHook"]["labels"]
    assert int(torch.bincount(labels[1], minlength=8).max()) <= 12


@pytest.mark.parametrize("weights", ["model_final", "model_best"])
def test_eval_only_gives_the_numbers_of_the_run(full_run: Path, world: Path, tmp_path: Path, weights: str) -> None:
    path = full_run / f"{weights}.pth"
    words = ["--eval-only", "MODEL.WEIGHTS", path, "OUTPUT_DIR", tmp_path / "eval"]
    call(tmp_path / "log", "--config-file", world / "mlt.yml", *words)
    results = read(full_run / "results.json")[weights.removeprefix("model_").replace("final", "last")]["results"]
    assert read(tmp_path / "eval" / "evaluation.json") == results


def test_eval_only_mirrors_expands_and_re_ranks(full_run: Path, world: Path, tmp_path: Path) -> None:
    words = ["--eval-only", "MODEL.WEIGHTS", full_run / "model_final.pth", "OUTPUT_DIR", tmp_path / "eval"]
    more = [word for key in ("FLIP", "AQE", "RERANK") for word in (f"TEST.{key}.ENABLED", True)]
    printed = call(tmp_path / "log", "--config-file", world / "mlt.yml", *words, *more)
    for net in ("student", "teacher", "teacher centred", "teacher expanded", "teacher centred re-ranked"):
        assert f"| {net} " in printed


def test_a_finished_run_is_left_alone(full_run: Path, world: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in full_run.rglob("*.pth")}
    metrics = (full_run / "metrics.json").read_text()
    results = (full_run / "results.json").read_text()
    config = (full_run / "config.yaml").read_text()
    words = ["--resume", "OUTPUT_DIR", full_run, "SOLVER.BASE_LR", 0.5]
    printed = call(tmp_path / "log", "--config-file", world / "mlt.yml", *words)
    assert "Stage I is there" in printed
    assert (full_run / "config.yaml").read_text() == config
    assert {path: path.stat().st_mtime_ns for path in full_run.rglob("*.pth")} == before
    assert (full_run / "metrics.json").read_text() == metrics
    assert (full_run / "results.json").read_text() == results


def test_adapted_batch_norm_at_evaluation(stage_one: Path, tmp_path: Path) -> None:
    """AdaBN of Stage I changes its numbers on the target, the same way each time."""
    config = stage_one.parent / "config.yaml"
    words = ["--config-file", config, "--eval-only", "MODEL.WEIGHTS", stage_one, "OUTPUT_DIR"]
    for name, adapt in (("plain", False), ("adapted", True), ("again", True)):
        call(tmp_path / "log", *words, tmp_path / name, "TEST.ADAPT_BN", adapt)
    plain, adapted, again = (read(tmp_path / n / "evaluation.json") for n in ("plain", "adapted", "again"))
    assert plain == read(stage_one.parent / "results.json")["best"]["results"]
    assert adapted == again
    assert adapted != plain
