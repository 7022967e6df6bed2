"""MSMT17: 15 cameras, 32,621 training images of 1,041 people (train and val), 11,659 queries, gallery of 82,161."""

from __future__ import annotations

import os

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
    train_list, val_list, query_list, gallery_list = lists
    train = _read_list(train_list, train_dir) + _read_list(val_list, train_dir)
    offset = max(record.pid for record in train) + 1
    query, gallery = (_sorted(_read_list(path, test_dir, offset)) for path in (query_list, gallery_list))
    return ReidSet("MSMT17", _sorted(train), query, gallery)


def _sorted(records: list[ReidRecord]) -> tuple[ReidRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.path))


def _read_list(path: str, folder: str, offset: int = 0) -> list[ReidRecord]:
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                name, pid = line.rsplit(maxsplit=1)
                camera = int(os.path.basename(name).split("_")[2])
                records.append(ReidRecord(os.path.join(folder, name), int(pid) + offset, camera - 1))
            except (ValueError, IndexError):
                raise ValueError(
                    f"{path}:{number}: wanted '0000/0000_000_01_....jpg PID', got {line.strip()!r}"
                ) from None
    if not records:
        raise ValueError(f"{path} lists no images")
    if not os.path.isfile(records[0].path):
        raise FileNotFoundError(f"{path} lists {records[0].path}, which is not there; is the archive fully unpacked?")
    return records
