"""VehicleID: vehicles without cameras, 113,346 training images of 13,164 vehicles; tests of 800, 1,600 and 2,400."""

from __future__ import annotations

import os

from mlt.data.datasets.image_list import read_list, with_suffix
from mlt.data.datasets.layout import Layout
from mlt.data.datasets.random_gallery import split_at_random
from mlt.registry import DATASETS
from mlt.structures import ReidRecord, ReidSet

FOLDERS = ("VehicleID_V1.0", "VehicleID", "vehicleid/VehicleID_V1.0", "vehicleid/VehicleID", "vehicleid")
TRAIN_LIST = "train_test_split/train_list.txt"
SIZES = {"SmallVehicleID": 800, "MediumVehicleID": 1600, "LargeVehicleID": 2400}  # test vehicles
ABOUT = (
    "VehicleID is described in Liu et al., Deep Relative Distance Learning: Tell the Difference Between Similar "
    "Vehicles, CVPR 2016; its authors (Peking University, pkuml.org) send it on request."
)


@DATASETS.register()
def VehicleID(root: str, *, direct: bool = False) -> ReidSet:
    """Read VehicleID as a source. Its test, of 13,164 vehicles as in FastReID, is read where the list is there.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Liu et al., CVPR 2016.
    """
    return _read(Layout("VehicleID", FOLDERS, ("image", TRAIN_LIST), ABOUT), 13164, root, direct)


def _register(name: str, size: int) -> None:
    @DATASETS.register(name)
    def read(root: str, *, direct: bool = False) -> ReidSet:
        return _read(Layout(name, FOLDERS, ("image", TRAIN_LIST, _test_list(size)), ABOUT), size, root, direct)


for _name, _size in SIZES.items():
    _register(_name, _size)


def _test_list(size: int) -> str:
    return f"train_test_split/test_list_{size}.txt"


def _read(layout: Layout, size: int, root: str, direct: bool) -> ReidSet:
    folder = layout.find(root, direct)
    paths = [os.path.join(folder, part) for part in (TRAIN_LIST, _test_list(size))]
    train, test = (_read_list(path, os.path.join(folder, "image")) if os.path.exists(path) else () for path in paths)
    return split_at_random(layout.name, train, test)


def _read_list(path: str, images: str) -> tuple[ReidRecord, ...]:
    def parse(line: str) -> ReidRecord:
        name, pid = line.split()
        return ReidRecord(os.path.join(images, with_suffix(name)), int(pid))

    return read_list(path, parse, "0000001 VEHICLE")
