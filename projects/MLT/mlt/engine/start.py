"""What a run starts from: a config without blanks, and a model with its first weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from yacs.config import CfgNode

from mlt.data.build import build_test_loader, iters_per_epoch
from mlt.engine.extract import adapt_batch_norm
from mlt.modeling.build import build_model
from mlt.modeling.meta_arch import ReidModel
from mlt.modeling.weights import load_weights
from mlt.structures import UNKNOWN, ReidRecord

logger = logging.getLogger(__name__)


def complete_config(cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord]) -> CfgNode:
    """The config with the numbers that the data decide: source identities, iterations of an epoch.

    Args:
        cfg: the config; not changed.
        source: labelled training images.
        target: unlabelled training images.

    Raises:
        ValueError: there are neither.
    """
    if not source and not target:
        raise ValueError("DATASETS.NAMES and DATASETS.TARGETS are both empty: there is nothing to train on")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = cfg.MODEL.HEADS.NUM_CLASSES or len({r.pid for r in source} - {UNKNOWN})
    cfg.SOLVER.ITERS_PER_EPOCH = iters_per_epoch(cfg, len(source), len(target))
    cfg.freeze()
    return cfg


def build_start_model(cfg: CfgNode, target: Sequence[ReidRecord]) -> ReidModel:
    """The model at step 0: PRETRAIN.WEIGHTS or MODEL.WEIGHTS in it, its BN statistics adapted if that is wanted.

    Args:
        cfg: a complete config.
        target: training images for PRETRAIN.ADAPT_BN.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: they are not there.
    """
    path = next(iter(cfg.PRETRAIN.WEIGHTS), cfg.MODEL.WEIGHTS)
    model = build_bare_model(cfg) if path else build_model(cfg)
    if path:
        logger.info("weights from %s: %s", path, load_weights(model, path))
    if cfg.PRETRAIN.ADAPT_BN and target:
        adapt_batch_norm(model, build_test_loader(cfg, target))
    return model


def build_bare_model(cfg: CfgNode) -> ReidModel:
    """The model without ImageNet weights, which would be fetched only to be overwritten.

    Args:
        cfg: a complete config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    return build_model(cfg)
