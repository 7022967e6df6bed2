#!/usr/bin/env python
"""Features of images by a trained model, ours or another toolbox's, to a NumPy archive.

    python tools/extract.py model_best.pth photos/ features.npz          # all images in and below a folder
    python tools/extract.py model_best.pth list.txt features.npz         # a path on each line, relative to the list
    python tools/extract.py model_best.pth table.csv features.npz        # columns path,pid,camid,split
    python tools/extract.py model_best.pth Market1501 features.npz       # a set of FASTREID_DATASETS, all its splits

The archive has the arrays features [N, D] (unit rows), paths, pids, camids (-1: unknown) and splits. `--opts KEY VALUE
...` changes the config that the checkpoint asks for, for example `--opts INPUT.SIZE_TEST "(256, 128)"`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mlt.api import open_checkpoint
from mlt.data.build import build_test_loader
from mlt.data.datasets import datasets_root, read_dataset
from mlt.data.datasets.image_list import read_list
from mlt.engine.extract import extract
from mlt.structures import Batch, ReidRecord, ReidSet
from mlt.utils.feature_file import FeatureFile
from mlt.utils.log import setup_logger
from mlt.utils.user_errors import one_message

SPLITS = ("train", "query", "gallery")


def read_images(source: str, camera_regex: str = "") -> ReidSet:
    """The images that the command line names.

    Args:
        source: a folder, a .csv table, a list of paths, or a set's name.
        camera_regex: for folders, see DATASETS.CAMERA_REGEX.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: there are none, or the table is none.
        KeyError: no such set.
    """
    if os.path.isfile(source) and not source.lower().endswith(".csv"):
        folder = os.path.dirname(source)
        return ReidSet(source, read_list(source, lambda line: ReidRecord(os.path.join(folder, line)), "image.jpg"))
    if os.sep in source and "@" not in source and not os.path.exists(source):
        raise FileNotFoundError(f"No folder, list or table {source!r}, looked in {os.getcwd()}")
    kind = "Folder@" if os.path.isdir(source) else "csv@" if os.path.isfile(source) else ""
    return read_dataset(kind + source, root=datasets_root(), camera_regex=camera_regex)


def extract_features(
    weights: str, images: ReidSet, *, device: str, domain: str = "target", options: Sequence[str] = ()
) -> FeatureFile:
    """Features of all images of a set, without those that DATALOADER.ON_BAD_IMAGE skips.

    Args:
        weights: the checkpoint.
        images: the set.
        device: "cpu" or "cuda".
        domain: see mlt.load_model.
        options: KEY, VALUE ... of the config.

    Raises:
        ValueError: every image was skipped.
    """
    cfg, model = open_checkpoint(weights, device=device, domain=domain, options=options)
    splits = [(split, record) for split in SPLITS for record in getattr(images, split)]
    records = [record for _, record in splits]
    whole = np.ones(len(records), dtype=bool)

    def batches() -> Iterator[Batch]:
        for batch in build_test_loader(cfg, records):
            whole[batch["indices"].numpy()] = batch["valid"].numpy()
            yield batch

    features = extract(model.evaluate, batches(), len(records), model.device)
    if not whole.any():
        raise ValueError(f"{images.name}: none of {len(records)} images can be read")
    return FeatureFile(
        features=features.cpu().numpy()[whole],
        paths=np.array([os.path.abspath(record.path) for record in records])[whole],
        pids=np.array([record.pid for record in records])[whole],
        camids=np.array([record.camid for record in records])[whole],
        splits=np.array([split for split, _ in splits])[whole],
    )


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="checkpoint")
    parser.add_argument("images", help="folder, list, table or name of a set")
    parser.add_argument("output", help="archive to write, .npz")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", default=devices[0], choices=devices, help="%(default)s")
    parser.add_argument("--domain", default="target", choices=["target", "source"], help="of two batch norms, which")
    parser.add_argument("--camera-regex", default="", help="finds the camera in a path below a folder")
    parser.add_argument("--opts", nargs="+", default=[], help="config keys and values: KEY VALUE KEY VALUE ...")
    return parser


@one_message()
def main(words: Sequence[str] | None = None) -> None:
    """Extract what the command line asks for.

    Args:
        words: the command line; None = this process's.
    """
    args = get_parser().parse_args(words)
    setup_logger()
    images = read_images(args.images, args.camera_regex)
    found = extract_features(args.weights, images, device=args.device, domain=args.domain, options=args.opts)
    found.save(args.output)
    print(f"{args.output}: features {list(found.features.shape)} of {images.name}")


if __name__ == "__main__":
    main()
