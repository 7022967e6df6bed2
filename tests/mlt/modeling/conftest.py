"""A network small enough for a test, and batches for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mlt.config import CfgNode, get_cfg
from mlt.structures import Batch

NUM_SOURCE_IDS = 6
NUM_CLUSTERS = (5, 7)
NUM_TARGET_IMAGES = 24


def make_batch(num_source: int, num_target: int, seed: int = 0) -> Batch:
    """Random images in P x 2 layout, source rows first."""
    generator = torch.Generator().manual_seed(seed)
    num = num_source + num_target
    return {
        "images": torch.randint(0, 256, (num, 3, 32, 16), dtype=torch.uint8, generator=generator),
        "targets": torch.arange(num) // 2 % NUM_SOURCE_IDS,
        "camids": torch.zeros(num, dtype=torch.int64),
        "domains": torch.tensor([0] * num_source + [1] * num_target),
        "indices": torch.randperm(NUM_TARGET_IMAGES, generator=generator)[:num],
        "img_paths": [f"{i}.jpg" for i in range(num)],
    }


def make_cfg(*options: object) -> CfgNode:
    """The tiny Stage II model; options are KEY, VALUE, KEY, VALUE ..."""
    cfg = get_cfg()
    tiny = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.DEPTH": "10x",
        "MODEL.BACKBONE.WIDTH": 8,
        "MODEL.META_ARCHITECTURE": "MixtureLabelTransport",
        "MODEL.DSBN": True,
        "MODEL.HEADS.NAME": "MixtureLabelHead",
        "MODEL.HEADS.NUM_CLASSES": NUM_SOURCE_IDS,
        "PSEUDO_LABELS.NUM_CLUSTERS": NUM_CLUSTERS,
        "MEMORY.QUEUE_SIZE": 20,
    }
    tiny |= dict(zip(options[::2], options[1::2], strict=True))
    cfg.merge_from_list([word for item in tiny.items() for word in item])
    return cfg


def make_labels() -> torch.Tensor:
    """Labels of all target images under every clustering, int64 [G, N]."""
    return torch.stack([torch.arange(NUM_TARGET_IMAGES) // 2 % k for k in NUM_CLUSTERS])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def cfg_of() -> Callable[..., CfgNode]:
    return make_cfg


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def labels() -> torch.Tensor:
    return make_labels()
