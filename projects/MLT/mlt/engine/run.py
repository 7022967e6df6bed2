"""The program behind tools/train_net.py: arguments, set-up, and the two jobs, training and evaluating."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence

import torch
from yacs.config import CfgNode

from mlt.config import get_cfg, with_values
from mlt.config.config import save_cfg
from mlt.data.build import build_test_loader, shuffled
from mlt.data.datasets import merge_train, read_datasets
from mlt.engine.check import check_run
from mlt.engine.evaluate import Results, evaluate
from mlt.engine.extract import adapt_batch_norm
from mlt.engine.pretrain import ensure_pretrained
from mlt.engine.start import build_bare_model, read_train_images
from mlt.engine.trainer import Trainer
from mlt.evaluation.report import format_table
from mlt.modeling.net_config import follow_weights
from mlt.modeling.weights import is_backbone_only, load_weights, num_classes_of
from mlt.utils import comm
from mlt.utils.checkpoint import load_checkpoint
from mlt.utils.files import atomic
from mlt.utils.log import setup_logger
from mlt.utils.plug_ins import import_plug_in
from mlt.utils.seed import seed_everything

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """The command line of FastReID's tools."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate a re-ID model.",
        epilog="Example: tools/train_net.py --config-file configs/MLT/duke2market.yml --num-gpus 4",
    )
    parser.add_argument("--config-file", metavar="FILE", default="", help="YAML config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TESTS")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine (gloo on MODEL.DEVICE cpu)")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0")
    add_import_flag(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values: KEY VALUE KEY VALUE ...")
    return parser


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """Let a command line take --import, as `plug_ins`.

    Args:
        parser: changed in place.
    """
    parser.add_argument(
        "--import",
        dest="plug_ins",
        metavar="MODULE",
        action="append",
        default=[],
        help="module or .py file that registers parts of your own; may be given several times",
    )


def load_cfg(args: argparse.Namespace) -> CfgNode:
    """Defaults, then the file, then KEY VALUE words; frozen. The modules of --import are imported first.

    Args:
        args: what `argument_parser` parsed.

    Raises:
        FileNotFoundError: no file of --import, or no config file.
        KeyError: an unknown key.
        ValueError: a bad value, a flag behind the KEY VALUE words, or no module of --import.
    """
    late = [word for word in args.opts if word.startswith("--")]
    if late:
        raise ValueError(f"{' '.join(late)}: flags go before the KEY VALUE words")
    for name in args.plug_ins:
        import_plug_in(name)
    cfg = get_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def run(cfg: CfgNode, *, eval_only: bool = False, resume: bool = False, given: Sequence[str] = ()) -> Results:
    """Train (Stage I first, where it is missing) or evaluate; results also go to OUTPUT_DIR as JSON.

    Args:
        cfg: frozen config.
        eval_only: evaluate MODEL.WEIGHTS and leave.
        resume: go on from the last checkpoint, or start when there is none.
        given: keys from the command line, of which the log says where they have no effect.

    Returns:
        The last evaluation, or the only one.

    Raises:
        ValueError: --eval-only without weights or without a test set; a config that cannot be trained.
        FileExistsError: OUTPUT_DIR holds a run and `resume` is not set.
        OSError: OUTPUT_DIR cannot be made.
    """
    _set_up(cfg, fresh=not (eval_only or resume))
    return _evaluate_only(cfg) if eval_only else _train(cfg, resume, given)


def _set_up(cfg: CfgNode, *, fresh: bool) -> None:
    if comm.is_main():
        try:
            os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        except OSError as error:
            text = f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} cannot be made: {error.strerror}; choose a folder to write to"
            raise OSError(text) from error
        if fresh and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
            raise FileExistsError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds a run. Add --resume to go on with it, "
                "or choose another OUTPUT_DIR, or delete it."
            )
    comm.barrier()
    setup_logger(cfg.OUTPUT_DIR, rank=comm.rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    seed_everything(cfg.SEED)


def _train(cfg: CfgNode, resume: bool, given: Sequence[str]) -> Results:
    source, target = read_train_images(cfg)
    check_run(cfg, source, target)
    if cfg.PRETRAIN.CONFIG_FILE and not _skips_pretraining(cfg):
        cfg = with_values(cfg, {"PRETRAIN.WEIGHTS": ensure_pretrained(cfg, source, target, given)})
        seed_everything(cfg.SEED)
    trainer = Trainer(cfg)
    if resume:
        trainer.resume()
    if comm.is_main() and not trainer.finished:  # the config of a finished run says how it was made
        save_cfg(trainer.cfg, os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
    trainer.train()
    if not trainer.finished:
        logger.warning("stopped after step %d of %d; go on with --resume", trainer.iter, trainer.max_iter)
        raise SystemExit(143)
    return trainer.last_results


def _skips_pretraining(cfg: CfgNode) -> bool:
    """Whether MODEL.WEIGHTS is a re-ID model; a bare backbone only replaces ImageNet weights of Stage I."""
    if not cfg.MODEL.WEIGHTS:
        return False
    bare = is_backbone_only(load_checkpoint(cfg.MODEL.WEIGHTS))
    what = "a bare backbone: Stage I starts from it" if bare else "a re-ID model: Stage I is skipped"
    logger.info("MODEL.WEIGHTS %s is %s", cfg.MODEL.WEIGHTS, what)
    return not bare


def _evaluate_only(cfg: CfgNode) -> Results:
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model.pth")
    state = load_checkpoint(cfg.MODEL.WEIGHTS)
    num_classes = num_classes_of(state) or 1  # classifiers do not enter evaluation
    cfg = with_values(follow_weights(cfg, state, cfg.MODEL.WEIGHTS), {"MODEL.HEADS.NUM_CLASSES": num_classes})
    model = build_bare_model(cfg)
    logger.info("weights from %s: %s", cfg.MODEL.WEIGHTS, load_weights(model, state, domain=cfg.MODEL.WEIGHTS_DOMAIN))
    if cfg.TEST.ADAPT_BN:
        targets = merge_train(read_datasets(cfg, cfg.DATASETS.TARGETS))
        adapt_batch_norm(model, build_test_loader(cfg, shuffled(targets)))
    results = evaluate(cfg, model, read_datasets(cfg, cfg.DATASETS.TESTS))
    if not results:
        raise ValueError(f"--eval-only: no set of DATASETS.TESTS {tuple(cfg.DATASETS.TESTS)} has query and gallery")
    if comm.is_main():
        logger.info("%s:\n%s", cfg.MODEL.WEIGHTS, format_table(results))
        with atomic(os.path.join(cfg.OUTPUT_DIR, "evaluation.json")) as temporary:
            temporary.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results
