"""Every config key is explained by a comment right above it, or above the group of lines in which it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlt.config import get_cfg
from mlt.config.config import CfgNode

DEFAULTS = Path(__file__).parents[2] / "projects/MLT/mlt/config/defaults.py"


def assigned_keys(source: str) -> dict[str, tuple[int, int]]:
    """Dotted key -> first and last line of its assignment, sections left out."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            section = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "CN()"
            key = ast.unparse(node.targets[0]).removeprefix("cfg.")
            if not section:
                found[key] = (node.lineno, node.end_lineno or node.lineno)
    return found


def undocumented(source: str) -> list[str]:
    """Keys with neither a comment above them nor above the lines of keys that they follow directly."""
    lines = source.splitlines()
    keys = assigned_keys(source)
    ends = {last: first for first, last in keys.values()}
    missing = []
    for key, (first, _) in keys.items():
        line = first - 1  # counted from 1: the line above
        while line in ends:
            line = ends[line] - 1
        if not re.match(r"\s*# \S", lines[line - 1]):
            missing.append(key)
    return missing


def leaves(cfg: CfgNode, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in cfg.items():
        names += leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return names


def test_every_key_has_a_comment() -> None:
    assert undocumented(DEFAULTS.read_text(encoding="utf-8")) == []


def test_no_key_hides_from_this_test() -> None:
    assert sorted(assigned_keys(DEFAULTS.read_text(encoding="utf-8"))) == sorted(leaves(get_cfg()))


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("# Number.\ncfg.A = 1\ncfg.B = (\n    2,\n)\ncfg.C = 3", []),
        ("# Section.\ncfg.S = CN()\ncfg.S.A = 1", ["S.A"]),
        ("# Number.\n\ncfg.A = 1", ["A"]),
        ("#\ncfg.A = 1", ["A"]),
    ],
)
def test_the_check_itself(source: str, missing: list[str]) -> None:
    assert undocumented(source) == missing
