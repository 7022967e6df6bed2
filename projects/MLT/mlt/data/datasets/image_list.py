"""Text files that list images, one on a line."""

from __future__ import annotations

import os
from collections.abc import Callable

from mlt.structures import ReidRecord
from mlt.utils.files import open_text


def read_list(path: str, parse: Callable[[str], ReidRecord], example: str) -> tuple[ReidRecord, ...]:
    """Records of a list, sorted by path. Blank lines are left out.

    Args:
        path: the list, UTF-8.
        parse: makes a record of a line without the space around it; ValueError, IndexError or KeyError where it
            cannot.
        example: a line as it should be, for messages.

    Raises:
        ValueError: not UTF-8, a line that cannot be parsed, or none at all.
        FileNotFoundError: the first image listed is not there. Not all are looked for, which takes minutes on a
            network disk: tools/check_dataset.py does.
    """
    records = []
    with open_text(path) as file:
        for number, line in enumerate(map(str.strip, file), 1):
            if not line:
                continue
            try:
                records.append(parse(line))
            except (ValueError, IndexError, KeyError):
                raise ValueError(f"{path}:{number}: wanted '{example}', got {line!r}") from None
    if not records:
        raise ValueError(f"{path} lists no images")
    if not os.path.isfile(records[0].path):
        raise FileNotFoundError(f"{path} lists {records[0].path}, which is not there; is the archive fully unpacked?")
    return tuple(sorted(records, key=lambda record: record.path))


def with_suffix(name: str) -> str:
    """An image's file name: lists of vehicles come with and without ".jpg".

    Args:
        name: as listed.
    """
    return name if name.lower().endswith(".jpg") else f"{name}.jpg"
