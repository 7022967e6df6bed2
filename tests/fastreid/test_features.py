"""The cells of the table in projects/MLT/README.md: what FastReID can do, switched on for each of our methods."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.transforms import build_transforms
from fastreid.engine import hooks
from PIL import Image

from mlt.adapters.fastreid import MLTTrainer
from mlt.structures import TARGET

EXAMPLE = Path(__file__).parents[2] / "projects/MLT/examples/labels_in_fastreid_baseline.py"
SAMPLERS = ("NaiveIdentitySampler", "BalancedIdentitySampler", "TrainingSampler", "ImbalancedDatasetSampler")
TRANSFORMS = {
    "CROP": {"SIZE": [64, 32]},
    "FLIP": {"PROB": 1.0},
    "PADDING": {},
    "CJ": {"PROB": 1.0},
    "AFFINE": {},
    "AUTOAUG": {"PROB": 1.0},
    "AUGMIX": {"PROB": 1.0},
    "REA": {"PROB": 1.0},
    "RPT": {"PROB": 1.0},
}
ONE_GROUP = {"PSEUDO_LABELS.NUM_CLUSTERS": (8,), "PSEUDO_LABELS.GROUP": 0, "LABEL_TRANSPORT.ENABLED": False}
ONE_STUDENT = {"MODEL.FREEZE_LAYERS": ["backbone"], "SOLVER.FREEZE_ITERS": 2, "SOLVER.HEADS_LR_FACTOR": 2.0}
SHUFFLENET = {
    "MODEL.BACKBONE.NAME": "build_shufflenetv2_backbone",
    "MODEL.BACKBONE.DEPTH": "1.0x",
    "MODEL.BACKBONE.FEAT_DIM": 1024,
}
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "MLT": ("MLT", ONE_STUDENT),
    "MMT": ("MMT", {}),
    "SpCL": ("SpCL", ONE_STUDENT),
    "ClusterContrast": (
        "SpCL",
        {"MEMORY.NAME": "ClusterMemory", "MODEL.DSBN": False, "PSEUDO_LABELS.WITH_SOURCE": False},
    ),
    "UNRN": (
        "MLT",
        {
            "MODEL.META_ARCHITECTURE": "UncertaintyGuided",
            "MODEL.BACKBONE.NAME": "TwoDepthResNet",
            "MODEL.HEADS.NAME": "TwoDepthMixtureHead",
            **ONE_GROUP,
        },
    ),
    "head in Baseline": (
        "Baseline",
        {**SHUFFLENET, **ONE_GROUP, "MODEL.HEADS.NAME": "MixtureLabelHead", "MEMORY.NAME": ""},
    ),
}


def switched_on(names: Any = TRANSFORMS) -> dict[str, Any]:
    """Config values of transforms that always act."""
    values = {name: {"ENABLED": True, **TRANSFORMS[name]} for name in names}
    return {f"INPUT.{name}.{key}": value for name, part in values.items() for key, value in part.items()}


SOLVER_AND_TEST = {
    "SOLVER.OPT": "SGD",
    "SOLVER.SCHED": "CosineAnnealingLR",
    "SOLVER.WARMUP_ITERS": 3,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.MAX_EPOCH": len(SAMPLERS),
    "PSEUDO_LABELS.PERIOD": 1,
    "PSEUDO_LABELS.ROUNDS": 0,
    "SOLVER.CHECKPOINT_PERIOD": len(SAMPLERS),
    "TEST.EVAL_PERIOD": len(SAMPLERS),
    "TEST.FLIP.ENABLED": True,
    "TEST.AQE.ENABLED": True,
    "TEST.ROC.ENABLED": True,
    "TEST.RERANK.ENABLED": True,
}


class NextSampler(hooks.HookBase):
    """Another sampler of target images in each epoch."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.seen: list[str] = []

    def after_epoch(self) -> None:
        self.seen.append(type(self.trainer.data_loader._loaders[TARGET].batch_sampler.sampler).__name__)
        self.cfg.DATALOADER.SAMPLER_TRAIN = SAMPLERS[(self.trainer.epoch + 1) % len(SAMPLERS)]


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_column(make_cfg: Any, tmp_path: Path, column: str) -> None:
    method, changes = COLUMNS[column]
    cfg = make_cfg(method, tmp_path, {**SOLVER_AND_TEST, **switched_on(), **changes})
    cfg.defrost()
    kind = MLTTrainer if method != "Baseline" else runpy.run_path(str(EXAMPLE))["ClusterTrainer"]
    trainer = kind(cfg)
    sampler = NextSampler(cfg)
    trainer.register_hooks([sampler])
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    results = trainer.train()
    assert sampler.seen == list(SAMPLERS)
    assert {"mAP", "TPR@FPR=1e-04"} <= results.keys()
    now = dict(trainer.model.named_parameters())
    assert all(value.isfinite().all() for value in now.values())
    assert sum(not torch.equal(now[name], value) for name, value in before.items()) > 0.9 * len(before)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(make_cfg: Any, tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 40, 3), dtype=np.uint8))
    off = {"INPUT.FLIP.ENABLED": False}
    plain = build_transforms(make_cfg("MLT", tmp_path, off))(image)
    transform = build_transforms(make_cfg("MLT", tmp_path, off | switched_on([name])))
    assert transform(image).shape == (3, 64, 32)
    assert any(not torch.equal(transform(image), plain) for _ in range(150))  # RPT collects a hundred patches first
