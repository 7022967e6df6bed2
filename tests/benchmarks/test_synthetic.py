from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlt.engine.run import load_cfg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/synthetic")


@pytest.fixture
def tables(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/synthetic_tables")


@pytest.fixture
def results(tables: ModuleType) -> dict[str, Any]:
    return json.loads(tables.RESULTS.read_text())


def test_the_page_holds_what_was_measured(tables: ModuleType, results: dict[str, Any]) -> None:
    assert f"{tables.BEGIN}\n\n{tables.tables(results)}\n\n{tables.END}" in tables.PAGE.read_text()


def test_the_page_is_written_between_its_marks(
    tables: ModuleType, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, found = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    found.write_text(json.dumps(results))
    monkeypatch.setattr(tables, "PAGE", page)
    tables.write_page(found)  # not the results of the page
    assert "old" in page.read_text()
    monkeypatch.setattr(tables, "RESULTS", found)
    tables.write_page(found)
    text = page.read_text()
    assert "old" not in text
    assert (text.split("\n")[0], text.split("\n")[-2]) == ("before", "after")
    assert "**63.5**" in text or "| MLT, as configured" in text


def test_numbers_of_the_tables(tables: ModuleType) -> None:
    def table(teacher: float, gap: float, ari: float) -> dict[str, Any]:
        kinds = {"plain": {"mAP": teacher}, "centred": {"mAP": teacher + 1}}
        labels = {"ARI": ari, "NMI": 0.5}
        return {"rows": {"MLT teacher": kinds}, "evaluated": "MLT teacher", "labels": labels, "gap_closed": gap}

    measured = {
        "machine": {"commit": "abc"},
        "seeds": [[1, 2], [3, 4]],
        "tables": [table(10.0, 0.25, 0.5), table(30.0, 0.75, 0.7)],
        "floors": [{"random network": 1.0}, {"random network": 2.0}],
        "ablations": {"no bank": {"machine": {"commit": "def"}, "pairs": [{"mAP": 1, "centred": 2, "ARI": 0.1}] * 2}},
        "looked_into": {"lambda 5": {"machine": {"commit": "ghi"}, "mAP": 3.0, "centred": 4.0, "ARI": 0.2}},
        "training_seeds": {str(s): {"mAP": m, "centred": m, "ARI": 0.5} for s, m in ((0, 9.0), (1, 10.0), (2, 11.0))},
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.tables(measured).split("\n")]
    assert ["MLT teacher, plain", "10.0", "30.0", "**20.0**"] in lines
    assert ["MLT teacher, centred", "11.0", "31.0", "**21.0**"] in lines
    assert ["gap closed (teacher, plain)", "0.25", "0.75", "**0.50**"] in lines
    assert ["random network", "1.0", "2.0", "**1.5**"] in lines
    assert ["MLT, as configured", "10.0", "30.0", "**20.0**", "21.0", "0.60", "abc"] in lines
    assert ["no bank", "1.0", "1.0", "**1.0**", "2.0", "0.10", "def"] in lines
    assert ["MLT, as configured", "10.0", "11.0", "0.50", "abc"] in lines
    assert ["lambda 5", "3.0", "4.0", "0.20", "ghi"] in lines
    assert ["mAP", "9.0", "10.0", "11.0", "**10.0**", "1.00"] in lines
    del measured["training_seeds"]
    assert "Training seeds" not in tables.tables(measured)


def test_each_row_is_a_recipe_of_its_own(benchmark: ModuleType) -> None:
    recipes = {}
    for name, words in {benchmark.FULL: [], **benchmark.ROWS, **benchmark.LOOKED_INTO}.items():
        config = benchmark.CONFIGS / ("synthetic-faithful.yml" if name == benchmark.FAITHFUL else "synthetic.yml")
        args = argparse.Namespace(config_file=str(config), plug_ins=[], opts=[*benchmark.COMMON, *words])
        recipes[name] = load_cfg(args).dump()
    assert len(set(recipes.values())) == len(recipes)


def test_rows_that_were_not_measured_now_stay(benchmark: ModuleType, results: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    seeds = [tuple(pair) for pair in results["seeds"]]
    new = {"seeds": seeds, "ablations": {"without teacher": 2}, "looked_into": {"lambda 5": 1}}
    benchmark.keep_other_rows(new, path)
    assert list(new["ablations"]) == [row for row in benchmark.ROWS if row in results["ablations"]]
    assert new["ablations"]["without teacher"] == 2
    assert new["ablations"]["one clustering only"] == results["ablations"]["one clustering only"]
    assert list(new["looked_into"]) == [
        row for row in benchmark.LOOKED_INTO if row in {*results.get("looked_into", {}), "lambda 5"}
    ]
    other = {"seeds": [(1, 1)], "ablations": {"without teacher": 1}, "looked_into": {}}
    benchmark.keep_other_rows(other, path)
    assert other["ablations"] == {"without teacher": 1}


def test_a_row_is_a_measurement_of_the_gap(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def run(tool: Path, *words: str, log: Path) -> None:
        seen.extend([tool.name, *words])
        folder = Path(words[words.index("OUTPUT_DIR") + 1]) / "adapted-1"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"labels/ARI": 0.5}\n{"lr": 0.1}\n{"labels/ARI": 0.75}\n')
        Path(words[words.index("--json") + 1]).write_text('{"runs": {"adapted": "adapted-1"}, "gap_closed": 0.5}')

    monkeypatch.setattr(benchmark, "run", run)
    found = benchmark.gap(tmp_path, ["DATASETS.TESTS", "x"], benchmark.FAITHFUL, ["SEED", "3"])
    assert found == {"gap_closed": 0.5, "ARI of each epoch": [0.5, 0.75]}
    assert seen[:2] == ["measure_gap.py", "--config-file"]
    assert seen[2].endswith("configs/MLT/synthetic-faithful.yml")
    assert seen[-2:] == ["SEED", "3"]  # behind what all rows share
