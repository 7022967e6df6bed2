"""Our keys in the tree of another toolbox."""

from __future__ import annotations

from yacs.config import CfgNode as YacsNode

from mlt.config.defaults import get_cfg

# What only our own engine reads. Elsewhere these keys would be accepted and do nothing.
ENGINE_KEYS = (
    "DATASETS.ROOT",
    "DATALOADER.PAD_SINGLETONS",
    "DATALOADER.ON_BAD_IMAGE",
    "DATALOADER.CACHE_GB",
    "DATALOADER.CACHE_DIR",
    "DATALOADER.CACHE_ON",
    "DATALOADER.AUGMENT_ON",
    "SOLVER.AMP.DTYPE",
    "TEST.ADAPT_BN",
    "TEST.CAMERA_CENTERING",
    "PRETRAIN.CONFIG_FILE",
    "PRETRAIN.SEEDS",
    "PRETRAIN.TARGET_STATISTICS",
)


def add_mlt_config(cfg: YacsNode) -> None:
    """Add the keys that our components read to the tree of FastReID or of a toolbox like it, with our defaults.

    Keys that the tree has already stay as they are. What a key means is said in defaults.py.

    Args:
        cfg: changed in place; new sections are of its own type.
    """
    _add_missing(cfg, get_cfg(), "")


def _add_missing(cfg: YacsNode, ours: YacsNode, prefix: str) -> None:
    for key, value in ours.items():
        if prefix + key in ENGINE_KEYS:
            continue
        if isinstance(value, YacsNode):
            cfg.setdefault(key, type(cfg)())
            _add_missing(cfg[key], value, f"{prefix}{key}.")
        else:
            cfg.setdefault(key, value)
