"""Two tiny domains, their configs, and one finished run, shared by all tests of the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlt.data.synthetic import DomainSpec, render_domain

sys.path.insert(0, str(Path(__file__).parent))  # so that the processes of commands.py find it, too
import commands

SIZE = (32, 16)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands: bits depend on it, and cores are few


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the domains "campus" and "station" and of the configs pre.yml and mlt.yml."""
    folder = tmp_path_factory.mktemp("world")
    for domain in ("campus", "station"):
        spec = DomainSpec(domain, num_train_ids=8, num_test_ids=5, images_per_id=6, num_cams=3, size=SIZE)
        render_domain(folder / domain, spec)
    solver = {"ITERS_PER_EPOCH": 3, "BASE_LR": 0.001, "IMS_PER_BATCH": 16}
    stage_one = {"SOLVER": {**solver, "MAX_EPOCH": 2}, "TEST": {"EVAL_PERIOD": 1}}
    (folder / "pre.yml").write_text(yaml.safe_dump(stage_one))
    (folder / "mlt.yml").write_text(yaml.safe_dump(_stage_two(folder, solver)))
    return folder


def _stage_two(folder: Path, solver: dict[str, Any]) -> dict[str, Any]:
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "META_ARCHITECTURE": "MixtureLabelTransport",
            "DSBN": True,
            "BACKBONE": {"DEPTH": "10x", "WIDTH": 8},
            "HEADS": {"NAME": "MixtureLabelHead", "DROPOUT": 0.1},
        },
        "INPUT": {
            "SIZE_TRAIN": list(SIZE),
            "SIZE_TEST": list(SIZE),
            "PADDING": {"SIZE": 2},
            "REA": {"ENABLED": True},
        },
        "DATASETS": {
            "NAMES": [f"Market1501@{folder}/campus"],
            "TARGETS": [f"Market1501@{folder}/station"],
            "TESTS": [f"Market1501@{folder}/station"],
        },
        "DATALOADER": {"NUM_WORKERS": 0, "AUGMENT_ON": "worker"},
        "PRETRAIN": {"CONFIG_FILE": "pre.yml"},
        "PSEUDO_LABELS": {
            "NUM_CLUSTERS": [6, 8, 10],
            "ROUNDS": 2,
            "PERIOD": 2,
            "NUM_RESTARTS": 1,
            "CAMERA_CENTERING": True,
        },
        "MEMORY": {"QUEUE_SIZE": 64},
        "SOLVER": {**solver, "MAX_EPOCH": 4, "STEPS": [3], "RESET_PERIOD": 2, "CHECKPOINT_PERIOD": 2},
        "TEST": {"EVAL_PERIOD": 1, "IMS_PER_BATCH": 16, "CAMERA_CENTERING": True},
    }


@pytest.fixture(scope="session")
def full_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a whole run, Stage I and four epochs of Stage II, by a command line in a fresh interpreter."""
    out = tmp_path_factory.mktemp("full") / "run"
    printed = commands.call_python("tools/train_net.py", "--config-file", world / "mlt.yml", "OUTPUT_DIR", out)
    (out / "printed.txt").write_text(printed)
    return out


@pytest.fixture(scope="session")
def stage_one(full_run: Path) -> Path:
    """Weights of Stage I."""
    return next(full_run.glob("pretrain/*/model_best.pth"))


@pytest.fixture(scope="session")
def stage_two(world: Path, stage_one: Path) -> list[str]:
    """Words of a command line that trains Stage II alone."""
    return ["--config-file", str(world / "mlt.yml"), "PRETRAIN.WEIGHTS", str(stage_one)]
