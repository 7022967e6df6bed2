"""What a run starts from: a config without blanks, and a model with its first weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from mlt.data.build import build_test_loader, iters_per_epoch, shuffled
from mlt.engine.extract import adapt_batch_norm
from mlt.modeling.build import build_model
from mlt.modeling.meta_arch import PseudoLabelModel, ReidModel
from mlt.modeling.weights import load_weights
from mlt.structures import UNKNOWN, ReidRecord
from mlt.utils import comm

logger = logging.getLogger(__name__)
AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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
        if isinstance(model, PseudoLabelModel):
            model.forget_run()
    if cfg.PRETRAIN.ADAPT_BN and target:
        adapt_batch_norm(model, build_test_loader(cfg, shuffled(target)))
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


def parallelize(model: nn.Module) -> nn.Module:
    """The model as the training step calls it: with several processes, gradients are averaged in the backward pass.

    Buffers stay each process's own: the memory's are equal by construction, BN statistics are averaged after an epoch.

    Args:
        model: on its device.
    """
    if not comm.active():
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(model, **options)


def mixed_precision(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of SOLVER.AMP, None when it is off.

    Args:
        cfg: the config.

    Raises:
        ValueError: no such dtype.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE must be one of {', '.join(AMP_DTYPES)}, got {cfg.SOLVER.AMP.DTYPE!r}")
    return AMP_DTYPES[cfg.SOLVER.AMP.DTYPE]
