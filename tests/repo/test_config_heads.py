"""The synthetic recipes say in their head comment what is not the paper's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlt.config import get_cfg
from mlt.config.config import CfgNode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# where a run finds and leaves things, and how it evaluates; all else belongs to the recipe
NO_RECIPE = (
    "DATASETS.",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_GB",
    "DATALOADER.AUGMENT_ON",
    "MODEL.DEVICE",
    "TEST.",
    "OUTPUT_DIR",
)


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return found


def load(path: Path) -> dict[str, object]:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return leaves(cfg)


def unnamed(path: Path, base: Path) -> list[str]:
    """Keys of the recipe that differ from the base and do not stand in the comment at the top."""
    head = "".join(line for line in path.read_text(encoding="utf-8").split("_BASE_")[0].splitlines(keepends=True))
    paper = load(base)
    differ = [key for key, value in load(path).items() if value != paper[key] and not key.startswith(NO_RECIPE)]
    return [key for key in differ if not re.search(rf"\b{key.split('.')[-1]}\b", head)]


@pytest.mark.parametrize("name", ["synthetic.yml", "synthetic-faithful.yml"])
def test_every_deviation_is_named(name: str) -> None:
    assert unnamed(CONFIGS / "MLT" / name, CONFIGS / "Base-MLT.yml") == []


def test_the_check_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    base = CONFIGS / "Base-MLT.yml"
    path.write_text(f"# Another SEED.\n_BASE_: {base}\nSEED: 7\nSOLVER:\n  BASE_LR: 1.0\nOUTPUT_DIR: x\n")
    assert unnamed(path, base) == ["SOLVER.BASE_LR"]
