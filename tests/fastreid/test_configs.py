"""Each config of projects/MLT/configs/fastreid is FastReID's to read, and its model FastReID's to build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling import build_model

import mlt.config
from mlt.adapters.fastreid import add_mlt_config
from mlt.config import value_of
from mlt.config.plug_in import ENGINE_KEYS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "projects/MLT/configs/fastreid").glob("*.yml"))


def load(path: Path) -> Any:
    cfg = get_cfg()
    add_mlt_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path: Path) -> None:
    cfg = load(path)
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES = 702
    cfg.freeze()
    with torch.device("meta"):
        model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE
    assert not path.stem.startswith(("MLT", "MMT")) or cfg.DATASETS.TARGETS


def test_stage_one_and_two_pool_alike() -> None:
    one, two = (load(ROOT / f"projects/MLT/configs/fastreid/{name}.yml") for name in ("pretrain-duke", "Base-MLT"))
    assert one.MODEL.HEADS.POOL_LAYER == two.MODEL.HEADS.POOL_LAYER


@pytest.mark.parametrize("method", ["MLT", "MMT"])
def test_stage_two_is_that_of_our_engine(method: str) -> None:
    theirs, ours = load(ROOT / f"projects/MLT/configs/fastreid/Base-{method}.yml"), mlt.config.get_cfg()
    ours.merge_from_file(str(ROOT / f"configs/Base-{method}.yml"))
    for key in ("SOLVER.AMP.ENABLED", "INPUT.REA.VALUE", "INPUT.REA.ENABLED", "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH"):
        assert value_of(theirs, key) == value_of(ours, key), key
    assert theirs.PSEUDO_LABELS == ours.PSEUDO_LABELS
    assert theirs.LABEL_TRANSPORT == ours.LABEL_TRANSPORT


def test_keys_that_only_our_engine_reads_are_unknown_here() -> None:
    cfg = get_cfg()
    theirs = cfg.dump()
    add_mlt_config(cfg)
    for key in ENGINE_KEYS:
        section, leaf = key.rsplit(".", 1)
        node = cfg
        for name in section.split("."):
            node = node[name]
        assert leaf not in node, key
    with pytest.raises(KeyError, match="CACHE_GB"):
        cfg.merge_from_other_cfg(type(cfg)({"DATALOADER": {"CACHE_GB": 1.0}}))
    plain = get_cfg()
    assert plain.dump() == theirs  # FastReID's defaults themselves are untouched


def test_commands_of_the_readme_name_configs_that_exist() -> None:
    text = (ROOT / "projects/MLT/README.md").read_text(encoding="utf-8")
    named = re.findall(r"fastreid_train_net.py --config-file (\S+)", text)
    assert len(named) >= 2
    for name in named:
        load(ROOT / name)
