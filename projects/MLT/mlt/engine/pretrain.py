"""Stage I by itself: train what Stage II starts from, once, and find it again."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence

from yacs.config import CfgNode

from mlt.config import get_cfg, value_of
from mlt.config.config import save_cfg
from mlt.engine.fingerprint import data_fingerprint, fingerprint
from mlt.engine.trainer import Trainer
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.registry import META_ARCHS
from mlt.structures import ReidRecord
from mlt.utils import comm
from mlt.utils.seed import seed_everything

logger = logging.getLogger(__name__)
# what Stage I takes over from Stage II: it must fit its network, its images and its machine
INHERITED = ("MODEL.DEVICE", "MODEL.BACKBONE", "MODEL.BN_GROUP", "MODEL.HEADS.POOL_LAYER", "MODEL.PIXEL_MEAN",
             "MODEL.PIXEL_STD", "INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST", "DATASETS", "DATALOADER", "TEST",
             "PRETRAIN.TARGET_STATISTICS", "CUDNN_BENCHMARK")  # fmt: skip
# what is for Stage II alone, so that nobody expects it to reach Stage I
STAGE_TWO = ("PSEUDO_LABELS", "LABEL_TRANSPORT", "MEAN_TEACHER", "MEMORY", "PRETRAIN", "OUTPUT_DIR", "MODEL.WEIGHTS",
             "MODEL.META_ARCHITECTURE", "MODEL.DSBN", "MODEL.HEADS.NAME", "MODEL.HEADS.MAX_CLUSTERS",
             "MODEL.HEADS.INIT")  # fmt: skip
OWN = ("TEST.EVAL_PERIOD",)  # inherited sections, but for these


def pretrain_config(cfg: CfgNode, seed: int, data: str = "") -> CfgNode:
    """The resolved Stage I config of a Stage II config: PRETRAIN.CONFIG_FILE, fitted to it.

    Args:
        cfg: Stage II config.
        seed: seed of this net, one of PRETRAIN.SEEDS.
        data: fingerprint of the training images.

    Returns:
        A frozen tree; its OUTPUT_DIR, below Stage II's, is named by the seed, a hash of the tree and the images, so a
        changed recipe or data set is trained anew and an unchanged one is found.

    Raises:
        ValueError: PRETRAIN.CONFIG_FILE is that of a Stage II.
    """
    out = get_cfg()
    out.merge_from_file(cfg.PRETRAIN.CONFIG_FILE)
    arch = META_ARCHS.get(out.MODEL.META_ARCHITECTURE)
    if isinstance(arch, type) and issubclass(arch, PseudoLabelModel):
        raise ValueError(
            f"PRETRAIN.CONFIG_FILE {cfg.PRETRAIN.CONFIG_FILE} trains {out.MODEL.META_ARCHITECTURE}, which labels "
            "target images; wanted a Stage I, which learns from the source alone, as those in configs/Pretrain"
        )
    period = out.TEST.EVAL_PERIOD
    for key in INHERITED:
        parent, _, leaf = key.rpartition(".")
        value = value_of(cfg, key)
        node = value_of(out, parent) if parent else out
        node[leaf] = value.clone() if isinstance(value, CfgNode) else value
    out.defrost()  # what is copied from a frozen tree is frozen
    out.TEST.EVAL_PERIOD = period
    out.SEED = seed
    if not cfg.PRETRAIN.TARGET_STATISTICS:
        out.DATASETS.TARGETS = ()
    # the source's own test split chooses the best epoch; the target's is only shown
    out.DATASETS.TESTS = tuple(dict.fromkeys((*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS)))
    if cfg.MODEL.WEIGHTS:  # a bare backbone: weights that hold more never come here
        out.MODEL.BACKBONE.PRETRAIN, out.MODEL.BACKBONE.PRETRAIN_PATH = True, cfg.MODEL.WEIGHTS
    name = "-".join(part for part in (f"seed{seed}", _fingerprint(out), data) if part)
    out.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "pretrain", name)
    out.freeze()
    return out


def _fingerprint(cfg: CfgNode) -> str:
    relevant = cfg.clone()
    relevant.TEST = get_cfg().TEST
    relevant.TEST.EVAL_PERIOD = cfg.TEST.EVAL_PERIOD  # decides which epochs may be the best
    relevant.DATASETS.TESTS = cfg.DATASETS.TESTS[:1]  # the one that chooses
    return fingerprint(relevant)


def pretrain_configs(cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord]) -> list[CfgNode]:
    """The Stage I configs of a Stage II run, one for each of PRETRAIN.SEEDS, each with its folder.

    Args:
        cfg: Stage II config.
        source: its labelled training images.
        target: its unlabelled training images.
    """
    seen = target if cfg.PRETRAIN.TARGET_STATISTICS else ()
    data = comm.broadcast_object(data_fingerprint(source, seen) if comm.is_main() else "")
    return [pretrain_config(cfg, seed, data) for seed in cfg.PRETRAIN.SEEDS]


def ensure_pretrained(
    cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord], given: Sequence[str] = ()
) -> list[str]:
    """Paths of the Stage I checkpoints of a Stage II run; trains, or goes on training, those that are missing.

    Args:
        cfg: Stage II config.
        source: its labelled training images.
        target: its unlabelled training images.
        given: keys from the command line; the log names those that do not reach Stage I.

    Returns:
        One path for each net: PRETRAIN.WEIGHTS, else "model_best.pth" below OUTPUT_DIR/pretrain.
    """
    if cfg.PRETRAIN.WEIGHTS:
        return list(cfg.PRETRAIN.WEIGHTS)
    lost = keys_not_inherited(given)
    if lost:
        logger.warning(
            "Stage I does not take %s from the command line: it follows %s, and its seeds are PRETRAIN.SEEDS %s",
            ", ".join(lost), cfg.PRETRAIN.CONFIG_FILE, tuple(cfg.PRETRAIN.SEEDS),
        )  # fmt: skip
    return [_train_net(one) for one in pretrain_configs(cfg, source, target)]


def keys_not_inherited(given: Sequence[str]) -> list[str]:
    """Those of some keys that Stage I has of its own and does not take from Stage II.

    Args:
        given: dotted keys.
    """
    return [key for key in given if key in OWN or not _is_below(key, (*INHERITED, *STAGE_TWO))]


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


def _train_net(cfg: CfgNode) -> str:
    best, final = (os.path.join(cfg.OUTPUT_DIR, f"{name}.pth") for name in ("model_best", "model_final"))
    if comm.broadcast_object(os.path.isfile(final) and os.path.isfile(best)):
        logger.info("Stage I is there: %s", best)
        return best
    logger.info("Stage I is trained first, in %s", cfg.OUTPUT_DIR)
    seed_everything(cfg.SEED)
    trainer = Trainer(cfg)
    if comm.is_main():
        save_cfg(trainer.cfg, os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
    trainer.resume()
    trainer.train()
    if trainer.stopping:
        logger.warning("Stage I stopped after step %d of %d; the same command goes on", trainer.iter, trainer.max_iter)
        raise SystemExit(143)
    logger.info("Stage I is done: %s", best)
    del trainer
    gc.collect()  # it and its hooks refer to each other: Stage II is to have the memory of its net and images
    return best
