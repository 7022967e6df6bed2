"""Sets of three folders whose file names tell identity and camera, as Market-1501 began it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

from mlt.data.datasets.layout import Layout, list_images
from mlt.structures import UNKNOWN, ReidRecord, ReidSet

logger = logging.getLogger(__name__)
PID_CAMERA = re.compile(r"(-?\d+)_c(\d+)")  # 0002_c1s1_000451_03.jpg, 0005_c2_f0046985.jpg, 0002_c002_00030600_0.jpg
JUNK = -1  # bad detections that neither help nor hurt a ranking


def read_market_style(layout: Layout, root: str, direct: bool, cameras: Mapping[int, int] | None = None) -> ReidSet:
    """Read train, query and gallery folders; junk (pid -1) is left out, distractors (pid 0) stay in the gallery.

    Args:
        layout: the set, its parts in the order train, query, gallery.
        root: folder of several sets.
        direct: `root` is this set's own folder.
        cameras: number in a file name -> camid; None = cameras are counted from 1.

    Raises:
        FileNotFoundError: the set is not there.
        ValueError: a part without images, or without names that fit.
    """
    folder = layout.find(root, direct)
    train, query, gallery = (_read_part(os.path.join(folder, part), cameras) for part in layout.parts)
    return ReidSet(layout.name, train, query, gallery)


def _read_part(folder: str, cameras: Mapping[int, int] | None) -> tuple[ReidRecord, ...]:
    records, strange = [], []
    for path in list_images(folder):
        match = PID_CAMERA.match(os.path.basename(path))
        camera = int(match[2]) if match else 0
        camid = camera - 1 if cameras is None else cameras.get(camera, UNKNOWN)
        if match is None or camid == UNKNOWN:
            strange.append(os.path.basename(path))
        elif int(match[1]) != JUNK:
            records.append(ReidRecord(path, int(match[1]), camid))
    if not records:
        raise ValueError(
            f"{folder}: no file name tells identity and camera like 0002_c1s1_000451_03.jpg; got {strange[:3]}"
        )
    if strange:
        logger.warning("%s: left out %d names without identity and camera, e.g. %s", folder, len(strange), strange[:3])
    return tuple(records)
