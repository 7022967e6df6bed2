"""FastReID's command line for a trainer."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from fastreid.config import get_cfg
from fastreid.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from yacs.config import CfgNode

from mlt.adapters.compat import enable_modern_runtime
from mlt.adapters.fastreid.data import register_datasets
from mlt.config import add_mlt_config
from mlt.modeling.weights import load_weights
from mlt.utils import comm
from mlt.utils.log import setup_logger
from mlt.utils.seed import seed_everything
from mlt.utils.user_errors import one_message

logger = logging.getLogger(__name__)


def run(trainer: type[DefaultTrainer]) -> None:
    """What FastReID's tools/train_net.py does, with its arguments: train, or evaluate MODEL.WEIGHTS, on every GPU.

    Args:
        trainer: DefaultTrainer or a class of its kind.
    """
    args = default_argument_parser().parse_args()
    launch(
        _main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(trainer, args),
    )


def _main(trainer: type[DefaultTrainer], args: argparse.Namespace) -> Any:
    """What every process does."""
    with one_message():
        cfg = _setup(args)
        if not args.eval_only:
            training = trainer(cfg)
            training.resume_or_load(resume=args.resume)
            return training.train()
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model.pth")
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = trainer.build_model(cfg)
        print(load_weights(model, cfg.MODEL.WEIGHTS, domain=cfg.MODEL.WEIGHTS_DOMAIN))
        return trainer.test(cfg, model)


def _setup(args: argparse.Namespace) -> CfgNode:
    """FastReID's config with our keys, its logger and ours, and the seed, which FastReID has no key for."""
    cfg = get_cfg()
    add_mlt_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, rank=comm.rank())
    logger.info("mended in FastReID: %s", ", ".join(enable_modern_runtime()) or "nothing")
    seed_everything(cfg.SEED + comm.rank())
    register_datasets(cfg)
    return cfg
