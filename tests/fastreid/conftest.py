"""The real FastReID, two tiny domains, and one finished run of MLT and of MMT. Without FastReID nothing here runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlt.data.synthetic import DomainSpec, render_domain

INSTALLED = importlib.util.find_spec("fastreid") is not None
if INSTALLED:
    import mlt.adapters.fastreid  # noqa: F401  before any test file imports FastReID, which needs mending
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]
MakeConfig = Callable[..., Any]

COMMON = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "ResNet",  # ours, because it can be narrow
    "MODEL.BACKBONE.DEPTH": "10x",
    "MODEL.BACKBONE.WIDTH": 8,
    "MODEL.HEADS.NAME": "MixtureLabelHead",
    "MODEL.HEADS.POOL_LAYER": "GeneralizedMeanPoolingP",
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss"),
    "INPUT.SIZE_TRAIN": [64, 32],
    "INPUT.SIZE_TEST": [64, 32],
    "INPUT.FLIP.ENABLED": True,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler",
    "PSEUDO_LABELS.NUM_CLUSTERS": (6, 8),
    "PSEUDO_LABELS.ROUNDS": 2,
    "PSEUDO_LABELS.PERIOD": 2,
    "PSEUDO_LABELS.NUM_RESTARTS": 1,
    "PSEUDO_LABELS.SCHEDULE": "warm",
    "MEMORY.QUEUE_SIZE": 64,
    "SOLVER.MAX_EPOCH": 3,
    "SOLVER.ITERS_PER_EPOCH": 3,  # with fewer FastReID divides by zero when it prints its speed
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "TEST.EVAL_PERIOD": 3,
    "TEST.IMS_PER_BATCH": 64,
}
METHODS: dict[str, dict[str, Any]] = {
    "Baseline": {"MODEL.META_ARCHITECTURE": "Baseline", "MODEL.HEADS.NAME": "EmbeddingHead"},
    "MLT": {"MODEL.META_ARCHITECTURE": "MixtureLabelTransport", "MODEL.DSBN": True},
    "MMT": {
        "MODEL.META_ARCHITECTURE": "MutualMeanTeaching",
        "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss", "SoftCrossEntropyLoss", "SoftTripletLoss"),
        "PSEUDO_LABELS.WITH_SOURCE": False,
        "PSEUDO_LABELS.NUM_CLUSTERS": (8,),
        "PSEUDO_LABELS.GROUP": 0,
        "LABEL_TRANSPORT.ENABLED": False,
        "MEMORY.NAME": "",
    },
    "SpCL": {
        "MODEL.META_ARCHITECTURE": "PseudoLabelModel",
        "MODEL.DSBN": True,
        "MODEL.HEADS.NAME": "NeckHead",
        "MODEL.LOSSES.NAME": (),
        "MEAN_TEACHER.ENABLED": False,
        "MEMORY.NAME": "HybridMemory",
        "PSEUDO_LABELS.NUM_CLUSTERS": (8,),
        "PSEUDO_LABELS.GROUP": 0,
        "LABEL_TRANSPORT.ENABLED": False,
    },
}


def pytest_report_header() -> list[str]:
    return [] if INSTALLED else ["FastReID is not installed (`make fastreid`): tests/fastreid is left out"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("fastreid")
            if torch.cuda.is_available() and "gpu" not in item.keywords:
                item.add_marker(pytest.mark.skip(reason='runs without CUDA devices: set CUDA_VISIBLE_DEVICES=""'))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the domains "campus" and "station"; galleries have the 50 images that FastReID's ranking expects."""
    folder = tmp_path_factory.mktemp("world")
    for domain in ("campus", "station"):
        spec = DomainSpec(domain, num_train_ids=8, num_test_ids=18, images_per_id=6, num_cams=3, size=(64, 32))
        render_domain(folder / domain, spec)
    return folder


@pytest.fixture(scope="session")
def make_cfg(world: Path) -> MakeConfig:
    """A FastReID config of a method: `make_cfg(method, output_dir, {key: value})`."""
    from fastreid.config import get_cfg

    from mlt.adapters.fastreid import add_mlt_config

    def make(method: str, out: Path, changes: dict[str, Any] | None = None) -> Any:
        cfg = get_cfg()
        add_mlt_config(cfg)
        source, target = (f"Market1501@{world}/{domain}" for domain in ("campus", "station"))
        sets = {"DATASETS.NAMES": (source,), "DATASETS.TARGETS": (target,), "DATASETS.TESTS": (target,)}
        values = COMMON | sets | METHODS[method] | {"OUTPUT_DIR": str(out)} | (changes or {})
        cfg.merge_from_list([word for pair in values.items() for word in pair])
        cfg.freeze()
        return cfg

    return make


@pytest.fixture(scope="session")
def mlt_run(make_cfg: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer of MLT after three epochs."""
    return run(make_cfg("MLT", tmp_path_factory.mktemp("mlt")))


@pytest.fixture(scope="session")
def mmt_run(make_cfg: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer of MMT after three epochs."""
    return run(make_cfg("MMT", tmp_path_factory.mktemp("mmt")))


def run(cfg: Any) -> Any:
    from mlt.adapters.fastreid import MLTTrainer

    trainer = MLTTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.at_start = {name: value.clone() for name, value in trainer.adaptive.state_dict().items()}
    trainer.train()
    return trainer
