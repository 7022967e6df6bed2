#!/usr/bin/env python
"""Train or evaluate: FastReID's command line for every method of this project.

python tools/train_net.py --config-file configs/MLT/duke2market.yml --num-gpus 4
python tools/train_net.py --config-file configs/MLT/duke2market.yml --eval-only MODEL.WEIGHTS model.pth
torchrun --nproc-per-node 4 tools/train_net.py --config-file configs/MLT/duke2market.yml
"""

from __future__ import annotations

import argparse
import time

import mlt.components  # noqa: F401  fills the registries
from mlt.engine.launch import launch
from mlt.engine.run import argument_parser, load_cfg, run
from mlt.utils import comm
from mlt.utils.user_errors import USER_ERRORS, end_with_message

PATIENCE = 10  # seconds


def main(args: argparse.Namespace) -> None:
    """What every process of the run does."""
    try:
        run(load_cfg(args), eval_only=args.eval_only, resume=args.resume, given=args.opts[::2])
    except USER_ERRORS as error:
        if not comm.is_main():  # most errors are everybody's: the main process tells, and with it all others are ended
            time.sleep(PATIENCE)
        end_with_message(error)


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    try:
        launch(
            main,
            arguments.num_gpus,
            device=load_cfg(arguments).MODEL.DEVICE,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except USER_ERRORS as error:
        end_with_message(error)
