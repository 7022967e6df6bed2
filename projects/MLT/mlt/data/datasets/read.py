"""The door: a set's name in a config -> ReidSet."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence

from yacs.config import CfgNode

from mlt.data.datasets.folder import read_folder
from mlt.data.datasets.table import read_table
from mlt.registry import DATASETS, unknown_name
from mlt.structures import ReidSet

logger = logging.getLogger(__name__)
ROOT_VARIABLE = "FASTREID_DATASETS"


def datasets_root(cfg_root: str = "") -> str:
    """The folder of the sets: the config's, else FASTREID_DATASETS, else "datasets".

    Args:
        cfg_root: DATASETS.ROOT.
    """
    return os.path.expanduser(cfg_root or os.environ.get(ROOT_VARIABLE) or "datasets")


def read_dataset(name: str, *, root: str, camera_regex: str = "") -> ReidSet:
    """Read one set.

    Args:
        name: a name of DATASETS, "NAME@PATH" (the same set in a folder of its own), "Folder@PATH" or "csv@FILE".
        root: folder in which plain names are looked for.
        camera_regex: for Folder@PATH, see `read_folder`.

    Raises:
        KeyError: no such name.
        FileNotFoundError: it is not there.
        ValueError: it is empty or not what its kind wants.
    """
    kind, at, path = name.partition("@")
    path = os.path.expanduser(path)
    if kind not in ("Folder", "csv", *DATASETS):
        raise KeyError(unknown_name("dataset", kind, ["Folder@PATH", "csv@FILE", *DATASETS]))
    if bool(at or kind in ("Folder", "csv")) != bool(path):
        raise ValueError(f"Dataset {name!r} lacks its path: write {kind}@PATH")
    if kind == "Folder":
        found = read_folder(path, camera_regex)
    elif kind == "csv":
        found = read_table(path)
    else:
        found = DATASETS.get(kind)(path or root, direct=bool(path))
    return dataclasses.replace(found, name=name)


def read_datasets(cfg: CfgNode, names: Sequence[str]) -> list[ReidSet]:
    """Read the sets that a config names and log their sizes.

    Args:
        cfg: a tree with DATASETS.
        names: e.g. cfg.DATASETS.NAMES.
    """
    root = datasets_root(cfg.DATASETS.ROOT)
    sets = [read_dataset(name, root=root, camera_regex=cfg.DATASETS.CAMERA_REGEX) for name in names]
    for found in sets:
        logger.info(
            "%s: train %d images of %d identities, query %d, gallery %d",
            found.name, len(found.train), found.num_train_pids, len(found.query), len(found.gallery),
        )  # fmt: skip
    return sets
