"""MSMT17: 15 cameras, 32,621 training images of 1,041 people (train and val), 11,659 queries, gallery of 82,161."""

from __future__ import annotations

import os

from mlt.data.datasets.image_list import read_list
from mlt.data.datasets.layout import Layout, find_layout
from mlt.registry import DATASETS
from mlt.structures import ReidRecord, ReidSet

LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
ABOUT = (
    "MSMT17 is described in Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, "
    "CVPR 2018; its authors (Peking University, VMC) send it after a signed agreement."
)
V1 = Layout("MSMT17", ("MSMT17_V1", "msmt17/MSMT17_V1"), ("train", "test", *LISTS), ABOUT)
V2 = Layout("MSMT17", ("MSMT17_V2", "msmt17/MSMT17_V2"), ("mask_train_v2", "mask_test_v2", *LISTS), ABOUT)


@DATASETS.register()
def MSMT17(root: str, *, direct: bool = False) -> ReidSet:
    """Read MSMT17 in its first version or, if that is not there, the second (blurred faces).

    Trains on train + val, as published domain adaptation does. The lists count test identities from 0 again; they
    are moved behind the training identities, because these are other people.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Raises:
        FileNotFoundError: the set is not there.
        ValueError: a list without lines, or with one that is not "PERSON/PERSON_SEQUENCE_CAMERA_....jpg PID".

    Source: Wei et al., CVPR 2018.
    """
    layout, folder = find_layout((V1, V2), root, direct)
    train_dir, test_dir, *lists = (os.path.join(folder, part) for part in layout.parts)
    train, val = (_read_list(path, train_dir) for path in lists[:2])
    trainval = tuple(sorted(train + val, key=lambda record: record.path))
    offset = max(record.pid for record in trainval) + 1
    return ReidSet("MSMT17", trainval, *(_read_list(path, test_dir, offset) for path in lists[2:]))


def _read_list(path: str, folder: str, offset: int = 0) -> tuple[ReidRecord, ...]:
    def parse(line: str) -> ReidRecord:
        name, pid = line.rsplit(maxsplit=1)
        camera = int(os.path.basename(name).split("_")[2])
        return ReidRecord(os.path.join(folder, name), int(pid) + offset, camera - 1)

    return read_list(path, parse, "0000/0000_000_01_....jpg PID")
