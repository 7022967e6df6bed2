"""What a run's numbers depend on, in eight hex digits: an unchanged run is found again, a changed one is made anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from yacs.config import CfgNode

from mlt.config import get_cfg, value_of, with_values
from mlt.structures import UNKNOWN, ReidRecord

# what changes no number, so that a run on another machine finds what this one made
IGNORED = (
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_GB",
    "DATALOADER.CACHE_DIR",
    "DATALOADER.CACHE_ON",
    "CUDNN_BENCHMARK",
    "OUTPUT_DIR",
)


def fingerprint(cfg: CfgNode) -> str:
    """Hash of a resolved config, without the keys of IGNORED and with weights files by their content.

    Args:
        cfg: the tree; not changed. A weights file that is not there counts by its name.

    Returns:
        Eight hex digits.
    """
    defaults = get_cfg()
    relevant = with_values(cfg, {key: value_of(defaults, key) for key in IGNORED})
    relevant.defrost()  # a content is no word to be read as a value
    relevant.MODEL.WEIGHTS = _content(cfg.MODEL.WEIGHTS)
    relevant.MODEL.BACKBONE.PRETRAIN_PATH = _content(cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    relevant.PRETRAIN.WEIGHTS = [_content(path) for path in cfg.PRETRAIN.WEIGHTS]
    return hashlib.sha256(relevant.dump().encode()).hexdigest()[:8]


def data_fingerprint(source: Sequence[ReidRecord], target: Sequence[ReidRecord], *, sizes: bool = True) -> str:
    """Hash of training images: names below their common folder and sizes of the files, and what is known of the
    source's. Pixels are not read, and target identities not looked at.

    Args:
        source: labelled images.
        target: unlabelled images.
        sizes: False leaves out the sizes, so that an image may be repaired, and no file is looked at.

    Returns:
        Eight hex digits.
    """
    digest = hashlib.sha256()
    for records, ids in ((source, [(r.pid, r.camid) for r in source]), (target, [()] * len(target))):
        paths = [os.path.abspath(record.path) for record in records]
        start = len(os.path.commonpath(paths)) if paths else 0
        for path, known in zip(paths, ids, strict=True):
            digest.update(repr((path[start:], *([_size(path)] * sizes), *known)).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:8]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # the loader will say so, or skip it
        return UNKNOWN


def _content(path: str) -> str:
    if not os.path.isfile(path):
        return path
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
