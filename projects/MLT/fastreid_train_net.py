#!/usr/bin/env python
"""FastReID's tools/train_net.py with our components and trainer; FastReID's own meta-architectures train as ever.

python projects/MLT/fastreid_train_net.py --config-file projects/MLT/configs/fastreid/MLT-duke2market.yml --num-gpus 4 \
    MODEL.WEIGHTS logs/fastreid/pretrain-duke/model_final.pth
"""

from __future__ import annotations

import argparse
from typing import Any

from mlt.adapters.fastreid import MLTTrainer, add_mlt_config

# isort: split
# FastReID runs here from now on.
from fastreid.config import get_cfg
from fastreid.engine import default_argument_parser, default_setup, launch

from mlt.modeling.weights import load_weights
from mlt.utils import comm
from mlt.utils.log import setup_logger
from mlt.utils.seed import seed_everything
from mlt.utils.user_errors import one_message


def setup(args: argparse.Namespace) -> Any:
    """FastReID's config with our keys, its logger and ours, and the seed, which FastReID has no key for."""
    cfg = get_cfg()
    add_mlt_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, rank=comm.rank())
    seed_everything(cfg.SEED + comm.rank())
    return cfg


def main(args: argparse.Namespace) -> Any:
    """What every process does: evaluate MODEL.WEIGHTS, or train."""
    with one_message():
        cfg = setup(args)
        if not args.eval_only:
            trainer = MLTTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            return trainer.train()
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model.pth")
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = MLTTrainer.build_model(cfg)
        print(load_weights(model, cfg.MODEL.WEIGHTS))
        return MLTTrainer.test(cfg, model)


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
