from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlt.config import CfgNode, get_cfg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("tools/measure_gap")


def config(path: str = "MLT/synthetic.yml", **keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / path))
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    cfg.freeze()
    return cfg


@pytest.fixture
def start(tmp_path: Path) -> str:
    (tmp_path / "start.pth").write_bytes(b"weights")
    return str(tmp_path / "start.pth")


class TestPlan:
    def test_all_start_from_stage_one_and_test_on_the_target(self, tool: ModuleType, start: str) -> None:
        cfg = config()
        runs = tool.plan(cfg, [start])
        assert list(runs) == ["adapted", "direct", "adabn", "oracle"]
        assert list(runs["adapted"].PRETRAIN.WEIGHTS) == [start]
        assert {run.MODEL.WEIGHTS for name, run in runs.items() if name != "adapted"} == {start}
        assert {run.DATASETS.TESTS for run in runs.values()} == {cfg.DATASETS.TESTS}
        assert [run.TEST.ADAPT_BN for run in runs.values()] == [False, False, True, False]
        assert runs["adabn"].DATASETS.TARGETS == cfg.DATASETS.TARGETS

    @pytest.mark.parametrize("name", ["synthetic", "duke2market"])
    def test_the_oracle_is_stage_one_on_the_target_with_the_augmentation_of_stage_two(
        self, tool: ModuleType, start: str, name: str
    ) -> None:
        cfg = config(f"MLT/{name}.yml", OUTPUT_DIR="x")
        oracle, recipe = tool.plan(cfg, [start])["oracle"], tool.pretrain_config(cfg, 0)
        assert (oracle.DATASETS.NAMES, oracle.DATASETS.TARGETS) == (cfg.DATASETS.TARGETS, ())
        assert (oracle.SOLVER, oracle.MODEL.BACKBONE) == (recipe.SOLVER, recipe.MODEL.BACKBONE)
        assert oracle.INPUT == cfg.INPUT
        assert oracle.MODEL.META_ARCHITECTURE == "Baseline"

    def test_the_oracle_of_the_synthetic_benchmark_is_the_config_that_can_be_run_by_hand(
        self, tool: ModuleType, start: str
    ) -> None:
        derived = tool.plan(config(), [start])["oracle"].clone()
        by_hand = config("Pretrain/synthetic-oracle.yml", MODEL__WEIGHTS=start)
        assert not derived.INPUT.CJ.ENABLED
        assert not by_hand.INPUT.CJ.ENABLED
        derived.defrost()
        derived.INPUT.CJ = by_hand.INPUT.CJ  # strengths of what is off
        derived.PRETRAIN, derived.OUTPUT_DIR = by_hand.PRETRAIN, by_hand.OUTPUT_DIR
        derived.freeze()
        assert derived == by_hand

    def test_an_oracle_of_ones_own(self, tool: ModuleType, start: str, tmp_path: Path) -> None:
        path = tmp_path / "oracle.yml"
        path.write_text(f"_BASE_: {ROOT}/configs/Pretrain/synthetic.yml\nSOLVER:\n  MAX_EPOCH: 3\n")
        oracle = tool.plan(config(), [start], oracle_file=str(path))["oracle"]
        assert oracle.SOLVER.MAX_EPOCH == 3
        assert oracle.INPUT.CJ.ENABLED
        assert oracle.DATASETS.NAMES == config().DATASETS.TARGETS

    def test_other_images_are_another_run(self, tool: ModuleType, start: str) -> None:
        before, after = (tool.plan(config(), [start], images=images) for images in ("1", "2"))
        assert all(before[name].OUTPUT_DIR != after[name].OUTPUT_DIR for name in before)

    def changes(self, tool: ModuleType, start: str, **keys: object) -> set[str]:
        before, after = tool.plan(config(), [start]), tool.plan(config(**keys), [start])
        return {name for name in before if before[name].OUTPUT_DIR != after[name].OUTPUT_DIR}

    def test_a_changed_recipe_is_another_run(self, tool: ModuleType, start: str) -> None:
        every = {"adapted", "direct", "adabn", "oracle"}
        assert self.changes(tool, start) == set()
        assert self.changes(tool, start, LABEL_TRANSPORT__LAMBDA=5.0) == {"adapted"}
        assert self.changes(tool, start, INPUT__REA__ENABLED=False) == {"adapted", "oracle"}
        assert self.changes(tool, start, TEST__CAMERA_CENTERING=False) == every
        assert self.changes(tool, start, DATASETS__TESTS=("Market1501",)) == every
        assert self.changes(tool, start, MODEL__DEVICE="cuda", DATALOADER__NUM_WORKERS=3) == set()

    def test_changed_weights_are_another_run_wherever_they_lie(self, tool: ModuleType, start: str) -> None:
        folders = [run.OUTPUT_DIR for run in tool.plan(config(), [start]).values()]
        other = Path(start).with_name("copy.pth")
        other.write_bytes(b"weights")
        assert [run.OUTPUT_DIR for run in tool.plan(config(), [str(other)]).values()] == folders
        Path(start).write_bytes(b"changed")
        changed = [run.OUTPUT_DIR for run in tool.plan(config(), [start]).values()]
        assert not set(changed) & set(folders)


class TestRunOnce:
    def test_a_run_that_is_there_is_not_made(self, tool: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(tool, "train_net", None)
        (tmp_path / "evaluation.json").touch()
        cfg = config(OUTPUT_DIR=str(tmp_path))
        assert tool.run_once(cfg, (), makes="evaluation.json") == str(tmp_path / "evaluation.json")

    @pytest.mark.parametrize(("makes", "flag"), [("evaluation.json", "--eval-only"), ("model_final.pth", "--resume")])
    def test_the_command_line(self, tool: ModuleType, tmp_path: Path, monkeypatch: Any, makes: str, flag: str) -> None:
        seen: list[str] = []
        monkeypatch.setattr(tool, "train_net", lambda *words: seen.extend(words) or 0)
        cfg = config(OUTPUT_DIR=str(tmp_path / "run"))
        flags = ("--num-gpus", "4", "--import", "parts.py")
        tool.run_once(cfg, flags, makes=makes)
        assert seen == ["--config-file", str(tmp_path / "run" / "recipe.yaml"), *flags, flag]
        again = get_cfg()
        again.merge_from_file(seen[1])
        assert again == cfg

    def test_its_exit_code_is_handed_on(self, tool: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(tool, "train_net", lambda *words: 143)
        with pytest.raises(SystemExit) as left:
            tool.run_once(config(OUTPUT_DIR=str(tmp_path / "run")), (), makes="model_final.pth")
        assert left.value.code == 143


def test_given_weights_are_what_stage_two_starts_from(tool: ModuleType, start: str) -> None:
    assert tool.starting_weights(config(PRETRAIN__WEIGHTS=[start]), (), (), ()) == [start]


def test_modules_of_the_user_s_own_are_imported_here_and_in_every_run(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("parts_a", "parts_b"):
        (tmp_path / f"{name}.py").write_text("")
    modules = [str(tmp_path / f"{name}.py") for name in ("parts_a", "parts_b")]
    (tmp_path / "empty.yml").write_text("OUTPUT_DIR: " + str(tmp_path))
    words = ["--import", modules[0], "--import", modules[1], "--config-file", str(tmp_path / "empty.yml")]
    monkeypatch.setattr(sys, "argv", ["measure_gap.py", *words])
    given: dict[str, Any] = {}

    def stop(cfg: Any, **options: Any) -> None:
        given.update(options)
        raise ValueError("far enough")

    monkeypatch.setattr(tool, "measure", stop)
    with pytest.raises(SystemExit):
        tool.main()
    assert given["flags"] == ["--num-gpus", "1", "--import", modules[0], "--import", modules[1]]
    for name in ("parts_a", "parts_b"):
        assert sys.modules.pop(name).__file__ == str(tmp_path / f"{name}.py")


def test_without_stage_one_there_is_nothing_to_compare_with(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"PRETRAIN.CONFIG_FILE is empty"):
        tool.read_images(config(PRETRAIN__CONFIG_FILE=""))


def measured(teacher: float = 60.0, centred: float = 60.0, gap: float | None = 0.6, **labels: float) -> dict[str, Any]:
    def row(plain: float, centred: float) -> dict[str, Any]:
        return {"plain": {"mAP": plain, "Rank-1": 1.0}, "centred": {"mAP": centred, "Rank-1": 2.0}}

    return {
        "rows": {"AdaBN": row(40.0, 50.0), "MLT student": row(99.0, 99.0), "MLT teacher": row(teacher, centred)},
        "evaluated": "MLT teacher",
        "labels": {"ARI": 0.7, "NMI": 0.9} | labels,
        "gap_closed": gap,
    }


class TestShortfalls:
    def test_none(self, tool: ModuleType) -> None:
        assert tool.shortfalls(measured()) == []
        assert tool.shortfalls(measured(teacher=50.0, centred=55.0, gap=0.5, ARI=0.6)) == []  # just enough

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (measured(teacher=49.9), "mAP of MLT teacher above AdaBN: 9.90, wanted >= 10"),
            (measured(centred=54.9), "the same with cameras centred: 4.90, wanted >= 5"),
            (measured(gap=0.49), "gap closed: 0.49, wanted >= 0.5"),
            (measured(gap=None), "gap closed: nan, wanted >= 0.5"),
            (measured(ARI=0.59), "ARI of the final labels: 0.59, wanted >= 0.6"),
            (measured(ARI=float("nan")), "ARI of the final labels: nan, wanted >= 0.6"),
        ],
    )
    def test_each(self, tool: ModuleType, found: dict[str, Any], message: str) -> None:
        assert tool.shortfalls(found) == [message]

    def test_what_was_not_measured_is_not_shown(self, tool: ModuleType) -> None:
        found = measured()
        for row in found["rows"].values():
            row["centred"] = {}
        assert tool.shortfalls(found) == ["the same with cameras centred: nan, wanted >= 5"]


def test_an_oracle_that_is_no_better(tool: ModuleType) -> None:
    assert "(teacher - direct) / (oracle - direct): none: the oracle is no better" in tool.show(measured(gap=None))


def test_the_readme_shows_what_the_demo_printed(tool: ModuleType) -> None:
    demo = json.loads((ROOT / "benchmarks/results/demo.json").read_text())
    assert tool.show(demo) in (ROOT / "README.md").read_text()
    assert tool.shortfalls(demo) == []
