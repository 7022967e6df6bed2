"""A network small enough for a test, and batches for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mlt.components  # noqa: F401  fills the registries
from mlt.config import CfgNode, get_cfg
from mlt.modeling import build_model
from mlt.modeling.meta_arch import PseudoLabelModel, ReidModel
from mlt.structures import Batch

NUM_SOURCE_IDS = 6
NUM_CLUSTERS = (5, 7)
NUM_TARGET_IMAGES = 24

TARGET_ONLY = {"DATASETS.NAMES": (), "MODEL.DSBN": False, "PSEUDO_LABELS.WITH_SOURCE": False}
ONE_CLUSTERING = {"PSEUDO_LABELS.NUM_CLUSTERS": NUM_CLUSTERS[:1]}
CONTRAST = {
    "MODEL.META_ARCHITECTURE": "PseudoLabelModel",
    "MODEL.HEADS.NAME": "NeckHead",
    "MODEL.LOSSES.NAME": (),
    "MEAN_TEACHER.ENABLED": False,
    "MEMORY.FEATURE": "embedding",
}
METHODS: dict[str, dict[str, object]] = {  # as make_cfg has it, but for these
    "Baseline": {"MODEL.META_ARCHITECTURE": "Baseline", "MODEL.HEADS.NAME": "EmbeddingHead", "MODEL.DSBN": False},
    "MixtureLabelTransport": {},
    "PseudoLabelModel": {  # the strong baseline
        "MODEL.META_ARCHITECTURE": "PseudoLabelModel",
        "MODEL.HEADS.WITH_SOURCE": True,
        "MEAN_TEACHER.ENABLED": False,
        "MEMORY.NAME": "",
        **ONE_CLUSTERING,
    },
    "MutualMeanTeaching": {
        "MODEL.META_ARCHITECTURE": "MutualMeanTeaching",
        "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss", "SoftCrossEntropyLoss", "SoftTripletLoss"),
        "MODEL.LOSSES.CE.SCALE": 0.5,
        "MODEL.LOSSES.TRI.SCALE": 0.2,
        "MEMORY.NAME": "",
        **ONE_CLUSTERING,
        **TARGET_ONLY,
    },
    "UncertaintyGuided": {
        "MODEL.META_ARCHITECTURE": "UncertaintyGuided",
        "MODEL.BACKBONE.NAME": "TwoDepthResNet",
        "MODEL.HEADS.NAME": "TwoDepthMixtureHead",
        **ONE_CLUSTERING,
    },
    "SpCL": {**CONTRAST, "MEMORY.NAME": "HybridMemory"},
    "ClusterContrast": {**CONTRAST, **TARGET_ONLY, "MEMORY.NAME": "ClusterMemory"},
}


def make_batch(num_source: int, num_target: int, seed: int = 0) -> Batch:
    """Random images of two views each in P x 2 layout, source rows first."""
    generator = torch.Generator().manual_seed(seed)
    num = num_source + num_target
    batch = {
        "images": torch.randint(0, 256, (num, 3, 32, 16), dtype=torch.uint8, generator=generator),
        "targets": torch.arange(num) // 2 % NUM_SOURCE_IDS,
        "camids": torch.zeros(num, dtype=torch.int64),
        "domains": torch.tensor([0] * num_source + [1] * num_target),
        "indices": torch.randperm(NUM_TARGET_IMAGES, generator=generator)[:num],
        "img_paths": [f"{i}.jpg" for i in range(num)],
    }
    return batch | {"views": torch.randint(0, 256, batch["images"].shape, dtype=torch.uint8, generator=generator)}


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


def make_method(name: str, *options: object) -> ReidModel:
    """The model of one of METHODS in training, with labels and, if it has a memory, a first round; a teacher that is
    not its student."""
    words = METHODS[name] | dict(zip(options[::2], options[1::2], strict=True))
    model = build_model(make_cfg(*(word for item in words.items() for word in item)))
    if isinstance(model, PseudoLabelModel):
        labels = make_labels()[: len(model.heads.num_active) or 1]
        model.set_pseudo_labels(labels, group=0)
        if model.memory is not None:
            width = model.heads.in_channels
            source = None if name == "ClusterContrast" else torch.randn(NUM_SOURCE_IDS, width)
            model.memory.start_round(labels[0], torch.randn(NUM_TARGET_IMAGES, width), source)
        for branch in model.branches:
            if branch.teacher is not None:
                for weight in branch.teacher.parameters():
                    weight.add_(0.05 * torch.randn_like(weight) * weight.abs().mean())
    return model.train()


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
def method_of() -> Callable[..., ReidModel]:
    return make_method


@pytest.fixture
def labels() -> torch.Tensor:
    return make_labels()
