"""tools/measure_gap.py from nothing to its table, and what a second call makes again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import LIMIT, ROOT, start

pytestmark = pytest.mark.slow
Measure = Callable[..., tuple[int, str]]


@pytest.fixture
def measure(
    world: Path, load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> Measure:
    """The command line on the tiny domains; exit code and what was printed. Its runs are forked: seconds are saved."""
    tool = load_tool("tools/measure_gap")

    def train_net(*words: str) -> int:
        command = start(tmp_path / "log", *words)
        code = command.wait()
        print(command.text)
        return code

    def run(*words: object) -> tuple[int, str]:
        short = ("SOLVER.MAX_EPOCH", 1, "PSEUDO_LABELS.ROUNDS", 1)
        argv = ["measure_gap.py", "--config-file", world / "mlt.yml", *words, *short]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        with pytest.raises(SystemExit) as left:
            tool.main()
        return int(left.value.code or 0), "".join(capsys.readouterr())

    monkeypatch.setattr(tool, "train_net", train_net)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of all measurements."""
    return tmp_path_factory.mktemp("gap")


@pytest.fixture
def out(folder: Path, measure: Measure) -> Path:
    """OUTPUT_DIR in which a measurement is."""
    if not (folder / "gap.json").exists():
        code, printed = measure("OUTPUT_DIR", folder)
        assert code == 0, printed
        (folder / "printed.txt").write_text(printed)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_table_holds_what_the_runs_found(out: Path, world: Path) -> None:
    found = read(out / "gap.json")
    assert list(found["rows"]) == ["direct transfer", "AdaBN", "MLT student", "MLT teacher", "oracle"]
    station = f"Market1501@{world}/station"
    for name, run, file in (("direct transfer", "direct", "evaluation"), ("AdaBN", "adabn", "evaluation")):
        nets = read(out / found["runs"][run] / f"{file}.json")[station]
        assert found["rows"][name] == {"plain": nets["student"], "centred": nets["student centred"]}
    adapted = read(out / found["runs"]["adapted"] / "results.json")
    assert found["rows"]["MLT teacher"]["plain"] == adapted["last"]["results"][station]["teacher"]
    assert found["labels"] == adapted["labels"]
    oracle = read(out / found["runs"]["oracle"] / "results.json")
    assert list(oracle["last"]["results"]) == [station]
    assert found["rows"]["oracle"]["centred"] == oracle["last"]["results"][station]["student centred"]
    printed = (out / "printed.txt").read_text()
    for name, row in found["rows"].items():
        numbers = [row[kind][metric] for kind in ("plain", "centred") for metric in ("mAP", "Rank-1")]
        assert [f"{n:.1f}" for n in numbers] == printed.split(f"| {name} ")[1].split("\n")[0].replace("|", " ").split()


def test_all_start_from_one_stage_one(out: Path) -> None:
    weights = f"{next(out.glob('pretrain/*'))}/model_best.pth"
    for run in ("adapted", "direct", "adabn", "oracle"):
        assert weights in (next(out.glob(f"{run}-*")) / "recipe.yaml").read_text()
    assert len(list(out.glob("*/recipe.yaml"))) == 4


def test_only_what_has_changed_is_made_again(out: Path, measure: Measure) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-*/*.*")}
    code, printed = measure("--json", out / "other.json", "OUTPUT_DIR", out, "SEED", 5)
    assert code == 0
    assert printed.count("found ") == 4  # Stage I, direct transfer, AdaBN and the oracle do not depend on SEED
    assert {path: path.stat().st_mtime_ns for path in before} == before
    one, other = read(out / "gap.json"), read(out / "other.json")
    assert one["runs"].pop("adapted") != other["runs"].pop("adapted")
    assert one["runs"] == other["runs"]
    assert one["rows"]["MLT teacher"] != other["rows"]["MLT teacher"]
    assert one["rows"]["oracle"] == other["rows"]["oracle"]


def test_promises_that_are_not_kept(out: Path, measure: Measure) -> None:
    code, printed = measure("--check", "OUTPUT_DIR", out)
    assert code == 1
    assert printed.count("found ") == 5
    assert "not shown: mAP of MLT teacher above AdaBN: " in printed
    assert ", wanted >= 10\n" in printed


def test_mistakes_of_stage_two_are_found_before_stage_one(world: Path, tmp_path: Path) -> None:
    words = ["--config-file", world / "mlt.yml", "OUTPUT_DIR", tmp_path / "run", "PSEUDO_LABELS.GROUP", 7]
    command = [sys.executable, "tools/measure_gap.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: PSEUDO_LABELS.GROUP 7 is none of the 3 groups")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_ends_the_measurement(measure: Measure, stage_one: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(stage_one.read_bytes()[:1000])
    code, printed = measure("OUTPUT_DIR", tmp_path / "run", "PRETRAIN.WEIGHTS", f"['{broken}']")
    assert code == 2
    assert printed.count("error: ") == 1
    assert "is no checkpoint, or a damaged one" in printed
    assert not (tmp_path / "run" / "gap.json").exists()


def test_a_target_without_identities_is_refused(measure: Measure, world: Path, tmp_path: Path) -> None:
    sets = ("DATASETS.TARGETS", f"('Folder@{world}/station/bounding_box_train',)")
    code, printed = measure("OUTPUT_DIR", tmp_path / "run", *sets)
    assert code == 2
    assert printed.startswith("error: DATASETS.TARGETS ")
    assert "has training images without identity: the oracle needs all of them" in printed
    assert not (tmp_path / "run").exists()
