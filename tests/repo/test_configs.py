"""Every config loads and builds its model, names what is there, and says whose number it aims at."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg
from mlt.config.config import CfgNode
from mlt.engine.pretrain import pretrain_config
from mlt.engine.start import build_bare_model
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.registry import DATASETS, HOOKS, META_ARCHS
from mlt.solver.build import build_optimizer
from mlt.solver.lr_schedule import build_lr_scheduler

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yml"))
RECIPES = [name for name in FILES if "/" in name]
TASKS = [name for name in RECIPES if "synthetic" not in name]
NUMBER = r"number .*\bnot ours\b.*: mAP \d+\.\d, Rank-1 \d+\.\d"
NONE = r"[Nn]o number"
NUM_IDS = 7


@functools.cache
def load(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.freeze()
    return cfg


def head_of(text: str) -> str:
    """The comment before the first key."""
    lines = text.splitlines()
    return " ".join(
        line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))]
    )


def on_meta(cfg: CfgNode) -> torch.nn.Module:
    """The model without its numbers, as a run checks it, for so many source identities."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES = "meta", NUM_IDS
    cfg.SOLVER.ITERS_PER_EPOCH = cfg.SOLVER.ITERS_PER_EPOCH or 10
    cfg.DATASETS.NAMES, cfg.OUTPUT_DIR, cfg.SEED = ("source",) * bool(cfg.DATASETS.NAMES), "", 0
    cfg.DATASETS.TARGETS, cfg.DATASETS.TESTS = (), ()
    return _build(cfg.dump())


@functools.cache  # configs that differ in their data sets alone have one model
def _build(text: str) -> torch.nn.Module:
    cfg = CfgNode.load_cfg(text)
    with torch.device("meta"):
        model = build_bare_model(cfg)
        optimizer = build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer, cfg.SOLVER.ITERS_PER_EPOCH)
    return model


def test_there_are_configs_of_every_method() -> None:
    assert {load(name).MODEL.META_ARCHITECTURE for name in RECIPES} == set(META_ARCHS)
    assert len(TASKS) > 40


@pytest.mark.parametrize("name", FILES)
def test_every_config_builds(name: str) -> None:
    cfg = load(name)
    model = on_meta(cfg)
    assert type(model) is META_ARCHS.get(cfg.MODEL.META_ARCHITECTURE)
    assert all(value.is_meta for value in model.parameters())
    if isinstance(model, PseudoLabelModel):
        HOOKS.get("PseudoLabelHook")(cfg, None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_together(name: str) -> None:
    cfg = load(name)
    sets = (*cfg.DATASETS.NAMES, *cfg.DATASETS.TARGETS, *cfg.DATASETS.TESTS)
    assert {entry.split("@")[0] for entry in sets} <= set(DATASETS)
    assert cfg.DATASETS.TESTS
    rows, group = cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.BN_GROUP
    assert rows % cfg.DATALOADER.NUM_INSTANCE == 0
    assert not group or rows % group == 0
    assert cfg.SOLVER.SCHED != "MultiStepLR" or all(step < cfg.SOLVER.MAX_EPOCH for step in cfg.SOLVER.STEPS)
    if cfg.PRETRAIN.CONFIG_FILE:
        assert len(cfg.PRETRAIN.SEEDS) == META_ARCHS.get(cfg.MODEL.META_ARCHITECTURE).num_starts


@pytest.mark.parametrize("name", [name for name in RECIPES if load(name).PRETRAIN.CONFIG_FILE])
def test_stage_one_fits_the_second(name: str) -> None:
    """Whatever Stage II has of backbone and neck comes trained out of Stage I."""
    cfg = load(name)
    first, second = on_meta(pretrain_config(cfg, cfg.PRETRAIN.SEEDS[0])).state_dict(), on_meta(cfg).state_dict()
    plain = {key.replace(".BN_S.", ".").replace(".BN_T.", "."): value.shape for key, value in second.items()}
    wanted = {k: v for k, v in plain.items() if k.startswith(("backbone.", "heads.bottleneck", "heads.shallow.bott"))}
    assert wanted
    assert wanted.items() <= {key: value.shape for key, value in first.items()}.items()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_whose_number_there_is(name: str) -> None:
    head = head_of((CONFIGS / name).read_text(encoding="utf-8"))
    assert bool(re.search(NUMBER, head)) != bool(re.search(NONE, head)), head


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith(("MLT/", "UNRN/"))])
def test_numbers_that_nobody_could_check_say_so(name: str) -> None:
    """UNRN's and GLT's are known from memory alone; GLT's stand apart from those of the MLT submission."""
    head = head_of((CONFIGS / name).read_text(encoding="utf-8"))
    if "GLT" in head or (name.startswith("UNRN/") and re.search(NUMBER, head)):
        assert re.search(r"[Nn]ot verified here", head), head
    if "GLT" in head:
        assert re.search(r"number \(MLT submission, not ours.*?Rank-1 \d+\.\d\. GLT, CVPR 2021 \(paper\): mAP", head), (
            head
        )
    if "msmt" in name and "GLT" in head:
        assert "the source does not name the method" in head, head


def test_mlt_with_dbscan_starts_classifiers_from_centroids() -> None:
    """Transport reads them one epoch after they were made."""
    names = [name for name in RECIPES if name.startswith("MLT/") and "dbscan" in name]
    assert len(names) > 5
    assert {load(name).MODEL.HEADS.INIT for name in names} == {"centroid"}


@pytest.mark.parametrize(
    ("text", "number", "none"),
    [
        ("# MMT.\n# The paper's number (not ours): mAP 71.2, Rank-1 87.7.\n_BASE_: a", True, False),
        ("# MMT.\n# No number is published for this task.\n_BASE_: a", False, True),
        ("# MMT.\n# The paper's number: mAP 71.2, Rank-1 87.7.\n_BASE_: a", False, False),
        ("# MMT.\n_BASE_: a  # The paper's number (not ours): mAP 71.2, Rank-1 87.7.", False, False),
    ],
)
def test_the_check_itself(text: str, number: bool, none: bool) -> None:
    found = [bool(re.search(pattern, head_of(text))) for pattern in (NUMBER, NONE)]
    assert found == [number, none]
