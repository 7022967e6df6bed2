"""Each method's synthetic recipe in miniature, by the command line: it runs, it resumes, it runs on two processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, call, call_group
from compare import assert_same

from mlt.engine import run as engine
from mlt.utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
CONFIGS = ROOT / "configs"
ADAPTING = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("*/synthetic*.yml") if p.parent.name != "Pretrain")
STAGE_ONE = ["Pretrain/synthetic.yml", "Pretrain/synthetic-oracle.yml"]
TINY: list[Any] = [
    *("MODEL.BACKBONE.WIDTH", 8, "INPUT.SIZE_TRAIN", (32, 16), "INPUT.SIZE_TEST", (32, 16)),
    *("SOLVER.MAX_EPOCH", 2, "SOLVER.ITERS_PER_EPOCH", 2, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.001),
    *("PSEUDO_LABELS.K1", 8, "PSEUDO_LABELS.K2", 2, "PSEUDO_LABELS.EPS", 0.6, "PSEUDO_LABELS.MIN_SAMPLES", 2),
    *("PSEUDO_LABELS.PERIOD", 1, "PSEUDO_LABELS.NUM_RESTARTS", 1, "MEMORY.QUEUE_SIZE", 64),
]
NETS = {"MMT": {"student", "student 2", "teacher", "teacher 2"}, "MLT": {"student", "teacher"}}
NETS["UNRN"] = NETS["MLT"]
Words = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def sets(world: Path) -> list[Any]:
    """Words that name the tiny domains."""
    campus, station = ((f"Market1501@{world}/{domain}",) for domain in ("campus", "station"))
    return ["DATASETS.NAMES", campus, "DATASETS.TARGETS", station, "DATASETS.TESTS", station]


@pytest.fixture(scope="module")
def two_depths(sets: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UNRN's Stage I."""
    out = tmp_path_factory.mktemp("depths") / "run"
    words = ["--config-file", CONFIGS / "Pretrain/synthetic-two-depths.yml", *TINY, *sets, "SOLVER.WARMUP_ITERS", 0]
    call(out.parent / "log", *words, "OUTPUT_DIR", out)
    return out / "model_final.pth"


@pytest.fixture(scope="module")
def words_of(sets: list[Any], stage_one: Path, two_depths: Path) -> Words:
    """Words of a config's command line, starting from one miniature Stage I."""

    def words(name: str) -> list[Any]:
        method = name.split("/")[0]
        weights = {"UNRN": [two_depths], "MMT": [stage_one] * 2}.get(method, [stage_one])
        clusters = (6, 8, 10) if method == "MLT" and "dbscan" not in name else (6,)
        tiny = [*TINY, *sets, "PSEUDO_LABELS.NUM_CLUSTERS", clusters, "PRETRAIN.WEIGHTS", [str(w) for w in weights]]
        return ["--config-file", CONFIGS / name, *tiny]

    return words


@pytest.fixture(scope="module")
def run_of(words_of: Words, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """OUTPUT_DIR of a config's finished run; each runs once."""
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            out = tmp_path_factory.mktemp("method") / "run"
            call(out.parent / "log", *words_of(name), "OUTPUT_DIR", out)
            runs[name] = out
        return runs[name]

    return run


def read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def last_results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())["last"]


@pytest.mark.parametrize("name", ADAPTING)
def test_a_recipe_runs_to_its_results(run_of: Callable[[str], Path], name: str, sets: list[Any]) -> None:
    run = run_of(name)
    nets = NETS.get(name.split("/")[0], {"student"})
    found = json.loads((run / "results.json").read_text())
    (station,) = sets[-1]
    assert found["last"]["epoch"] == 2
    rows = found["last"]["results"]
    assert rows.keys() == {station}
    assert rows[station].keys() == nets | {f"{net} centred" for net in nets}
    assert all(0 < row["mAP"] <= 100 for row in rows[station].values())
    assert {"ARI", "NMI", "clusters"} <= found["labels"].keys()
    assert found["labels"]["clusters"] >= 4
    state = load_checkpoint(run / "model_final.pth")
    assert (state["iteration"], state["epoch"]) == (4, 1)
    lines = read_lines(run / "metrics.json")
    assert len(lines) == 2
    assert all(value > 0 for line in lines for key, value in line.items() if key == "loss_cls")


NO_SOURCE = [*("DATASETS.NAMES", (), "PRETRAIN.CONFIG_FILE", ""), *("MODEL.DSBN", False)]
NO_SOURCE += [*("MODEL.HEADS.WITH_SOURCE", False), *("PSEUDO_LABELS.WITH_SOURCE", False)]


@pytest.mark.parametrize("name", ADAPTING)
def test_a_method_learns_without_a_source(words_of: Words, tmp_path: Path, name: str) -> None:
    """From target images and random weights alone."""
    words = [*words_of(name)[:-2], *NO_SOURCE, "SOLVER.MAX_EPOCH", 1, "OUTPUT_DIR", tmp_path / "run"]
    printed = call(tmp_path / "log", *words)
    assert "Stage I" not in printed
    found = last_results(tmp_path / "run")
    assert found["epoch"] == 1
    losses = [value for line in read_lines(tmp_path / "run" / "metrics.json") for key, value in line.items()
              if key.startswith("loss_")]  # fmt: skip
    assert losses
    assert sum(losses) > 0


def test_stage_one_trains_two_nets_for_mmt(words_of: Words, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*words_of("MMT/synthetic.yml")[:-2], "PRETRAIN.SEEDS", (3, 4), "OUTPUT_DIR", run]
    config = tmp_path / "stage-one.yml"
    config.write_text(f"_BASE_: {CONFIGS}/Pretrain/synthetic.yml\nSOLVER: {{MAX_EPOCH: 1, ITERS_PER_EPOCH: 2, "
                      "IMS_PER_BATCH: 16, WARMUP_ITERS: 0}\n")  # fmt: skip
    call(tmp_path / "log", *words, "PRETRAIN.CONFIG_FILE", config, "SOLVER.MAX_EPOCH", 1)
    folders = sorted(path.name.split("-")[0] for path in (run / "pretrain").iterdir())
    assert folders == ["seed3", "seed4"]
    state = load_checkpoint(run / "model_final.pth")["model"]
    assert not torch.equal(state["backbone.conv1.weight"], state["peer.backbone.conv1.weight"])
    assert not torch.equal(state["teacher.backbone.conv1.weight"], state["peer.teacher.backbone.conv1.weight"])


def test_the_page_s_own_method_trains(words_of: Words, tmp_path: Path) -> None:
    """The class and the config that projects/MLT/README.md shows, from files as a reader would make them."""
    page = (ROOT / "projects/MLT/README.md").read_text(encoding="utf-8").split("## A new method in one file")[1]
    code, config = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0] for language in ("python", "yaml"))
    (tmp_path / "core.py").write_text(code)
    (tmp_path / "core.yml").write_text(config.replace("configs/", f"{CONFIGS}/"))
    words = [*words_of("MLT/synthetic.yml")[2:], "OUTPUT_DIR", tmp_path / "run"]
    words = ["--config-file", tmp_path / "core.yml", "--import", tmp_path / "core.py", *words]
    call(tmp_path / "log", *words, "PSEUDO_LABELS.NUM_CLUSTERS", (6,))
    lines = read_lines(tmp_path / "run" / "metrics.json")
    assert 0.6 < lines[0]["labels/outliers"] < 0.9  # four fifths, as the class has it


@pytest.mark.parametrize("name", STAGE_ONE)
def test_stage_one_and_oracle(name: str, sets: list[Any], tmp_path: Path) -> None:
    words = [*TINY, *sets[:2], *sets[4:], "SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", tmp_path / "run"]
    call(tmp_path / "log", "--config-file", CONFIGS / name, *words)
    assert last_results(tmp_path / "run")["epoch"] == 2


OF_MMT = ("PSEUDO_LABELS.EPS", 0.0, "PSEUDO_LABELS.EPS_SHARE", 0.1, "PSEUDO_LABELS.WINDOW", "reranking")


@pytest.mark.parametrize(("name", "more"), [("MMT/synthetic-dbscan.yml", OF_MMT), ("SpCL/synthetic.yml", ())])
def test_n_and_resumed_n_are_2n(words_of: Words, tmp_path: Path, name: str, more: tuple[Any, ...]) -> None:
    """With what each keeps from its first clustering: MMT's eps; SpCL's threshold, and the memory that is clustered."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [*words_of(name), *more, "TEST.EVAL_PERIOD", 1, "OUTPUT_DIR"]
    call(tmp_path / "log", *words, whole)
    call(tmp_path / "log", *words, parts, "SOLVER.MAX_EPOCH", 1)
    (parts / "model_final.pth").unlink()
    printed = call(tmp_path / "log", *words[:2], "--resume", *words[2:], parts)
    assert "after step 2 of 4" in printed
    for file in ("model_last.pth", "model_final.pth", "model_best.pth"):
        assert_same(load_checkpoint(parts / file), load_checkpoint(whole / file), file)
    assert_same(*(read_lines(run / "metrics.json") for run in (parts, whole)), "metrics.json")
    assert (parts / "results.json").read_text() == (whole / "results.json").read_text()
    kept = load_checkpoint(whole / "model_final.pth")["hooks"]["PseudoLabelHook"]["clustering"]
    assert all(value > 0 for value in kept.values()), kept


def test_mmt_is_evaluated_and_continued_from_its_own_file(
    run_of: Callable[[str], Path], words_of: Words, tmp_path: Path
) -> None:
    """One file holds both students and both teachers."""
    name = "MMT/synthetic.yml"
    run = run_of(name)
    words = [*words_of(name)[:-2], "MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR"]
    call(tmp_path / "log", *words[:2], "--eval-only", *words[2:], tmp_path / "evaluated")
    found = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert found == last_results(run)["results"]


def train(_: int, words: list[str]) -> None:
    args = engine.argument_parser().parse_args(words)
    engine.run(engine.load_cfg(args), resume=args.resume)


@pytest.mark.parametrize(("name", "more"), [("MMT/synthetic-dbscan.yml", OF_MMT), ("SpCL/synthetic.yml", ())])
def test_two_processes_share_the_search_label_as_one_and_resume(
    words_of: Words, tmp_path: Path, name: str, more: tuple[Any, ...]
) -> None:
    """The first labels are those of one process; a run in two parts is the run in one."""
    words = [*map(str, (*words_of(name), *more, "TEST.EVAL_PERIOD", 1)), "OUTPUT_DIR"]
    call(tmp_path / "log", *words, tmp_path / "one", "SOLVER.MAX_EPOCH", 1)
    call_group(2, train, [*words, str(tmp_path / "parts"), "SOLVER.MAX_EPOCH", "1"])
    first, second = (
        load_checkpoint(tmp_path / run / "model_final.pth")["hooks"]["PseudoLabelHook"] for run in ("one", "parts")
    )
    assert first["num_clusters"][0] > 2
    assert_same(second, first)
    (tmp_path / "parts" / "model_final.pth").unlink()
    call_group(2, train, [*words[:2], "--resume", *words[2:], str(tmp_path / "parts")])
    call_group(2, train, [*words, str(tmp_path / "whole")])
    assert_same(*(load_checkpoint(tmp_path / run / "model_final.pth") for run in ("parts", "whole")))


def test_two_processes_run_mmt_plus(words_of: Words, tmp_path: Path) -> None:
    """Source and target in two views, two students in one gradient exchange."""
    words = [*words_of("MMT/synthetic-plus.yml"), "OUTPUT_DIR", tmp_path / "run"]
    call_group(2, train, [str(word) for word in words])
    state = load_checkpoint(tmp_path / "run" / "model_final.pth")
    assert (state["iteration"], len(state["processes"])) == (4, 2)
    first, second = (part["model"] for part in state["processes"])
    assert first.keys() == second.keys()
    assert any("peer.teacher" in name for name in first)
    assert last_results(tmp_path / "run")["results"].keys() == {words[words.index("DATASETS.TESTS") + 1][0]}
