"""Folder@PATH: any tree of images of which nobody knows the identities."""

from __future__ import annotations

import logging
import os
import re

from mlt.data.datasets.layout import IMAGE_SUFFIXES, walk_images
from mlt.structures import UNKNOWN, ReidRecord, ReidSet

logger = logging.getLogger(__name__)


def read_folder(path: str, camera_regex: str = "") -> ReidSet:
    """All images below a folder as training images without identities.

    A camera is what the regular expression finds, else the first sub-folder, else unknown. Cameras are numbered in
    the order of their sorted names.

    Args:
        path: the folder. Its hidden files and folders are left out.
        camera_regex: searched in each path relative to the folder; its one group is the camera's name. "" = none.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, or not a regular expression with one group.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(f"Folder@{path}: no such folder {os.path.abspath(path)!r}")
    pattern = _compile(camera_regex) if camera_regex else re.compile("([^/]+)/")
    names = sorted(walk_images(path))
    if not names:
        raise ValueError(f"Folder@{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in it or below")
    found = [pattern.search(name) if camera_regex else pattern.match(name) for name in names]
    cameras = {camera: number for number, camera in enumerate(sorted({match[1] for match in found if match}))}
    if cameras and None in found:
        logger.warning("Folder@%s: %d of %d images are of unknown camera", path, found.count(None), len(found))
    records = (
        ReidRecord(os.path.join(path, name), UNKNOWN, cameras[match[1]] if match else UNKNOWN)
        for name, match in zip(names, found)
    )
    return ReidSet(f"Folder@{path}", tuple(records))


def _compile(camera_regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(camera_regex)
    except re.error as error:
        raise ValueError(f"DATASETS.CAMERA_REGEX {camera_regex!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(
            f"DATASETS.CAMERA_REGEX {camera_regex!r} must have one group, as in 'cam(\\d+)', got {pattern.groups}"
        )
    return pattern
