"""VERI-Wild: vehicles, 174 cameras, 277,797 training images of 30,671 vehicles; tests of 3,000, 5,000 and 10,000."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlt.data.datasets.image_list import read_list, with_suffix
from mlt.data.datasets.layout import Layout, find_layout
from mlt.registry import DATASETS
from mlt.structures import ReidRecord, ReidSet

FOLDERS = ("VERI-Wild", "VeRI-Wild", "VeRi-Wild", "veriwild/VERI-Wild", "veri-wild", "veriwild")
CAMERAS = "vehicle_info.txt"
SIZES = {"SmallVeRiWild": 3000, "MediumVeRiWild": 5000, "LargeVeRiWild": 10000}  # test vehicles
ABOUT = (
    "VERI-Wild is described in Lou et al., VERI-Wild: A Large Dataset and a New Method for Vehicle Re-Identification "
    "in the Wild, CVPR 2019; see github.com/PKU-IMRE/VERI-Wild."
)


@DATASETS.register()
def VeRiWild(root: str, *, direct: bool = False) -> ReidSet:
    """Read VERI-Wild with its largest test, as FastReID does under this name.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Lou et al., CVPR 2019.
    """
    return _read("VeRiWild", SIZES["LargeVeRiWild"], root, direct)


def _register(name: str, size: int) -> None:
    @DATASETS.register(name)
    def read(root: str, *, direct: bool = False) -> ReidSet:
        return _read(name, size, root, direct)


for _name, _size in SIZES.items():
    _register(_name, _size)


def _layouts(name: str, size: int) -> list[Layout]:
    """Two versions of the lists are around: bare names, with cameras in a table; and lines that hold the camera."""
    bare = ("train_list.txt", f"test_{size}_query.txt", f"test_{size}.txt", CAMERAS)
    full = ("train_list_start0.txt", f"test_{size}_id_query.txt", f"test_{size}_id.txt")
    parts = [("images", *(f"train_test_split/{file}" for file in files)) for files in (bare, full)]
    return [Layout(name, FOLDERS, one, ABOUT) for one in parts]


def _read(name: str, size: int, root: str, direct: bool) -> ReidSet:
    layout, folder = find_layout(_layouts(name, size), root, direct)
    images, *lists = (os.path.join(folder, part) for part in layout.parts)
    cameras = _read_cameras(lists.pop()) if lists[-1].endswith(CAMERAS) else {}
    train, query, gallery = (_read_list(path, images, cameras) for path in lists)
    queries = {record.path for record in query}  # some copies list all test images as the gallery
    return ReidSet(name, train, query, tuple(record for record in gallery if record.path not in queries))


def _read_cameras(path: str) -> dict[str, int]:
    """Image ("VEHICLE/IMAGE", no suffix) -> camera. Copies come with and without a header."""
    cameras = {}
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            image, *rest = line.strip().split(";")
            if rest and rest[0].strip().isdecimal():
                cameras[os.path.splitext(image)[0]] = int(rest[0])
            elif number > 1 and image:
                raise ValueError(f"{path}:{number}: wanted 'VEHICLE/IMAGE;CAMERA;...', got {line.strip()!r}")
    return cameras


def _read_list(path: str, images: str, cameras: Mapping[str, int]) -> tuple[ReidRecord, ...]:
    def parse(line: str) -> ReidRecord:
        name, *rest = line.split()  # VEHICLE/IMAGE, or VEHICLE/IMAGE LABEL CAMERA with labels counted anew
        camera = int(rest[1]) if rest else cameras[os.path.splitext(name)[0]]
        return ReidRecord(os.path.join(images, with_suffix(name)), int(name.split("/")[0]), camera)

    example = f"VEHICLE/IMAGE LABEL CAMERA' or 'VEHICLE/IMAGE' with its camera in '{CAMERAS}"
    return read_list(path, parse, example)
