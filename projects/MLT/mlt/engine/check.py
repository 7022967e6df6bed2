"""Mistakes of a config are found before time is spent: Stage I takes hours, and what is wrong in Stage II shows now."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from yacs.config import CfgNode

from mlt.config import check_least, with_values
from mlt.data.build import build_train_loader
from mlt.engine.evaluate import refinement
from mlt.engine.start import build_bare_model, complete_config, mixed_precision
from mlt.modeling.meta_arch import PseudoLabelModel, ReidModel
from mlt.registry import HOOKS, META_ARCHS
from mlt.solver.build import build_optimizer
from mlt.solver.lr_schedule import build_lr_scheduler
from mlt.structures import ReidRecord
from mlt.utils import comm
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)


def check_run(cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord]) -> None:
    """Build every part of a training run without its numbers, and drop it: what cannot be built says so.

    Draws no random number of the CPU's generator and takes no memory for weights.

    Args:
        cfg: the run's config.
        source: labelled training images.
        target: unlabelled training images.

    Raises:
        ValueError: values out of range, or that do not fit together or to the data.
        KeyError: a name that no registry has.
        FileNotFoundError: a file of PRETRAIN.WEIGHTS is not there.
    """
    _check_starts(cfg)
    _check_groups(cfg)
    cfg = with_values(complete_config(cfg, source, target), {"MODEL.DEVICE": "meta"})
    with torch.device("meta"):
        model = build_bare_model(cfg)
        optimizer = build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer, cfg.SOLVER.ITERS_PER_EPOCH)
    mixed_precision(cfg)
    refinement(cfg)
    build_train_loader(cfg, source, target)
    if isinstance(model, PseudoLabelModel):
        if not target:
            raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} labels target images, but DATASETS.TARGETS is empty")
        HOOKS.get("PseudoLabelHook")(cfg, None)  # a host is first asked when training starts
        _warn_of_rounds(cfg)
        _warn_of_untrained_classifiers(cfg, model)


def _check_starts(cfg: CfgNode) -> None:
    """Each net that is trained starts from one Stage I."""
    wanted = META_ARCHS.get(cfg.MODEL.META_ARCHITECTURE).num_starts  # type: ignore[attr-defined]
    key = "PRETRAIN.WEIGHTS" if cfg.PRETRAIN.WEIGHTS else "PRETRAIN.SEEDS"
    given = cfg.PRETRAIN.WEIGHTS or (cfg.PRETRAIN.SEEDS if cfg.PRETRAIN.CONFIG_FILE else ())
    if given and len(given) != wanted:
        raise ValueError(
            f"{key} has {len(given)} entries, {tuple(given)}, but {cfg.MODEL.META_ARCHITECTURE} starts from {wanted}: "
            "give one for each net"
        )
    for path in cfg.PRETRAIN.WEIGHTS:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"PRETRAIN.WEIGHTS names {path!r}, which is not there; leave it empty to train Stage I"
            )


def _check_groups(cfg: CfgNode) -> None:
    solver, processes = cfg.SOLVER, comm.world_size()
    check_least(cfg, {"SOLVER.IMS_PER_BATCH": 1, "DATALOADER.NUM_INSTANCE": 1})
    rows = f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} / {processes} process(es)"
    identities = solver.IMS_PER_BATCH // processes // cfg.DATALOADER.NUM_INSTANCE
    if solver.ACCUMULATION < 1 or identities % solver.ACCUMULATION:
        raise ValueError(
            f"SOLVER.ACCUMULATION {solver.ACCUMULATION} must be a divisor of the {identities} identities that a "
            f"process has in a batch = {rows} / DATALOADER.NUM_INSTANCE {cfg.DATALOADER.NUM_INSTANCE}"
        )
    part = solver.IMS_PER_BATCH // processes // solver.ACCUMULATION
    if cfg.MODEL.BN_GROUP and part % cfg.MODEL.BN_GROUP:
        raise ValueError(
            f"MODEL.BN_GROUP {cfg.MODEL.BN_GROUP} does not divide the {part} images of a domain that a process has at "
            f"a time = {rows} / SOLVER.ACCUMULATION {solver.ACCUMULATION}"
        )


def _warn_of_rounds(cfg: CfgNode) -> None:
    labels, epochs = cfg.PSEUDO_LABELS, cfg.SOLVER.MAX_EPOCH
    begun = -(-epochs // labels.PERIOD)
    if begun < labels.ROUNDS:
        warn_once(
            logger,
            f"Only {begun} of PSEUDO_LABELS.ROUNDS {labels.ROUNDS} begin within SOLVER.MAX_EPOCH {epochs}, one every "
            f"PSEUDO_LABELS.PERIOD {labels.PERIOD} epochs",
        )


def _warn_of_untrained_classifiers(cfg: CfgNode, model: ReidModel) -> None:
    if cfg.LABEL_TRANSPORT.ENABLED and not model.trains_classifiers:
        warn_once(
            logger,
            f"No loss of MODEL.LOSSES.NAME {tuple(cfg.MODEL.LOSSES.NAME)} trains the classifiers, from which "
            "LABEL_TRANSPORT takes its labels: add CrossEntropyLoss or set LABEL_TRANSPORT.ENABLED False",
        )
