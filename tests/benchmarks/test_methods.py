"""The tables of the comparison of methods."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tables(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/methods_tables")


def pair(teacher: float, kept: list[float]) -> dict[str, Any]:
    def net(value: float) -> dict[str, Any]:
        return {kind: {"mAP": value, "Rank-1": value + 20} for kind in ("plain", "centred")}

    rows = {"direct transfer": net(10.0), "AdaBN": net(11.0), "X student": net(30.0), "X teacher": net(teacher)}
    return {
        "rows": rows | {"oracle": net(80.0)},
        "evaluated": "X teacher",
        "labels": {"ARI": 0.5, "NMI": 0.7},
        "gap_closed": 0.5,
        "seconds": 120,
        "traces": {"labels/ARI": [0.1, 0.3], **({"labels/kept": kept} if kept else {})},
    }


@pytest.fixture
def measured() -> dict[str, Any]:
    methods = {"SpCL": [pair(40.0, [0.2, 0.4]), pair(50.0, [0.4, 0.8])], "MMT": [pair(60.0, []), pair(70.0, [])]}
    return {"machine": {"commit": "abc"}, "seeds": [[1, 2], [3, 4]], "methods": methods}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")]


def test_means_over_the_pairs(tables: ModuleType, measured: dict[str, Any]) -> None:
    lines = cells(tables.methods_table(measured))
    assert ["SpCL", "45.0", "65.0", "45.0", "65.0", "0.50", "0.50", "0.70", "2.00"] in lines
    assert [line[0] for line in lines[2:]] == ["direct transfer", "AdaBN", "oracle", "SpCL", "MMT"]
    assert ["MMT", "60.0 / 60.0", "70.0 / 70.0"] in cells(tables.pairs_table(measured))


def test_mechanisms(tables: ModuleType, measured: dict[str, Any]) -> None:
    lines = cells(tables.mechanisms_table(measured))
    assert ["SpCL", "labels/kept", "0.30", "0.60"] in lines
    assert ["MMT", "mAP of X student", "", "30.0"] in lines
    assert ["MMT", "mAP of X teacher", "", "65.0"] in lines
    assert ["SpCL", "0.30", "0.60"] in cells(tables.kept_table(measured))
    del measured["methods"]["SpCL"]
    assert tables.kept_table(measured) == ""


def test_the_page_has_what_was_measured(tables: ModuleType) -> None:
    text = tables.PAGE.read_text()
    if not tables.RESULTS.exists():
        assert "**Not measured yet**" in text
        return
    page = tables.page(tables.json.loads(tables.RESULTS.read_text()))
    assert page in text
