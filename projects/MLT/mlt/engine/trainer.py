"""One trainer for all methods: builds the parts from a cfg, runs the step, hosts the label hook, saves and resumes."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from mlt.data.build import build_test_loader, build_train_loader
from mlt.data.datasets import merge_train, read_datasets
from mlt.engine import hooks
from mlt.engine.evaluate import Results, evaluate
from mlt.engine.extract import adapt_batch_norm, extract
from mlt.engine.train_loop import HookBase, TrainLoop
from mlt.modeling.build import build_model
from mlt.registry import HOOKS
from mlt.solver.build import build_optimizer, zero_moments
from mlt.solver.lr_schedule import build_lr_scheduler
from mlt.structures import PseudoLabels, ReidRecord
from mlt.utils import comm
from mlt.utils.checkpoint import Checkpointer
from mlt.utils.events import EventStorage
from mlt.utils.seed import rng_state, set_rng_state

logger = logging.getLogger(__name__)
LOG_PERIOD = 20  # steps between written points; on CUDA also between checks for NaN, so that no step waits


class Trainer(TrainLoop):
    """Trains a meta-architecture on labelled source and unlabelled target images.

    Args:
        cfg: frozen config; PRETRAIN.WEIGHTS or MODEL.WEIGHTS name what to start from.

    Attributes:
        model: the meta-architecture, unwrapped.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.source = merge_train(read_datasets(cfg, cfg.DATASETS.NAMES))
        self.target = merge_train(read_datasets(cfg, cfg.DATASETS.TARGETS))
        self.test_sets = read_datasets(cfg, cfg.DATASETS.TESTS)
        iters = cfg.SOLVER.ITERS_PER_EPOCH or math.ceil(
            max(len(self.source), len(self.target)) / cfg.SOLVER.IMS_PER_BATCH
        )
        super().__init__(cfg.SOLVER.MAX_EPOCH, iters)
