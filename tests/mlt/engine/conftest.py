"""A trainer on a handful of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg
from mlt.engine.trainer import Trainer
from mlt.structures import PseudoLabels

NUM_IDS, SHOTS = 4, 4


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Market-1501 tree of random pictures."""
    root = tmp_path_factory.mktemp("market")
    random = np.random.default_rng(0)
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        (root / part).mkdir()
        for number in range(NUM_IDS * SHOTS):
            name = f"{number // SHOTS:04d}_c{number % 2 + 1}s1_{number:06d}_00.png"
            Image.fromarray(random.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(root / part / name)
    return root


@pytest.fixture
def trainer_of(pictures: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """A tiny Stage II trainer with labels; options are KEY, VALUE, KEY, VALUE ..."""

    def build(*options: object) -> Trainer:
        cfg = get_cfg()
        tiny = {
            "MODEL.DEVICE": "cpu",
            "MODEL.BACKBONE.DEPTH": "10x",
            "MODEL.BACKBONE.WIDTH": 8,
            "MODEL.META_ARCHITECTURE": "MixtureLabelTransport",
            "MODEL.DSBN": True,
            "MODEL.HEADS.NAME": "MixtureLabelHead",
            "INPUT.SIZE_TRAIN": (16, 8),
            "INPUT.SIZE_TEST": (16, 8),
            "DATASETS.NAMES": (f"Market1501@{pictures}",),
            "DATASETS.TARGETS": (f"Market1501@{pictures}",),
            "DATASETS.TESTS": (),
            "DATALOADER.NUM_WORKERS": 0,
            "PSEUDO_LABELS.NUM_CLUSTERS": (4, 5),
            "PSEUDO_LABELS.ROUNDS": 1,
            "MEMORY.QUEUE_SIZE": 20,
            "SOLVER.IMS_PER_BATCH": 8,
            "SOLVER.ITERS_PER_EPOCH": 2,
            "OUTPUT_DIR": str(tmp_path),
        }
        tiny |= dict(zip(options[::2], options[1::2], strict=True))
        cfg.merge_from_list([word for item in tiny.items() for word in item])
        cfg.freeze()
        trainer = Trainer(cfg)
        if trainer.hooks.get("PseudoLabelHook"):
            count, num_clusters = torch.arange(len(trainer.target)), (4, 5)[: len(trainer.model.heads.num_active) or 1]
            trainer.set_pseudo_labels(PseudoLabels(torch.stack([count % k for k in num_clusters]), num_clusters))
        return trainer

    return build
