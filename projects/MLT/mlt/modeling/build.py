"""cfg -> model on its device."""

from __future__ import annotations

import torch
from yacs.config import CfgNode

from mlt.modeling.meta_arch import ReidModel
from mlt.registry import META_ARCHS


def build_model(cfg: CfgNode) -> ReidModel:
    """The model that MODEL describes, with random (or ImageNet) weights, on MODEL.DEVICE, channels last in memory.

    Args:
        cfg: the whole tree; MODEL.HEADS.NUM_CLASSES already counted.

    Raises:
        KeyError: a name that no registry has.
        ValueError: values that do not fit together.
        RuntimeError: MODEL.DEVICE is "cuda" and there is none.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but torch finds no GPU here; add MODEL.DEVICE cpu")
    if cfg.DATASETS.NAMES and cfg.MODEL.HEADS.NUM_CLASSES < 1:
        raise ValueError(
            f"MODEL.HEADS.NUM_CLASSES is {cfg.MODEL.HEADS.NUM_CLASSES}: build_model needs the number of identities in "
            f"DATASETS.NAMES {tuple(cfg.DATASETS.NAMES)}, which the trainer counts when it reads them"
        )
    model = META_ARCHS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(cfg.MODEL.DEVICE, memory_format=torch.channels_last)
