"""csv@FILE: a table of images with columns path, pid, camid, split."""

from __future__ import annotations

import csv
import os

from mlt.structures import UNKNOWN, ReidRecord, ReidSet
from mlt.utils.files import open_text

COLUMNS = ("path", "pid", "camid", "split")
SPLITS = ("train", "query", "gallery")
LONGEST = 18  # digits of a number that surely fits int64


def read_table(path: str) -> ReidSet:
    """Read a CSV file whose first line names its columns.

    `path` is relative to the file. `pid` and `camid` may be blank or left out: unknown. Integers >= 0 of at most 18
    digits stay as they are (-1 is unknown); if any value of a column is something else, all its values are numbered in
    the order of their sorted names. `split` is "train" (also when blank or left out), "query" or "gallery". Other
    columns are ignored. An image may be in a split more than once, with the same values.

    Args:
        path: the CSV file, UTF-8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8 or no table, no column "path", no rows, an unknown split, a query without identity, or an
            image that is twice in a split with different values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"csv@{path}: no such file {os.path.abspath(path)!r}")
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            if "path" not in (reader.fieldnames or ()):
                raise ValueError(
                    f"csv@{path}: the first line must name the columns {','.join(COLUMNS)}, got {reader.fieldnames}"
                )
            rows = [{column: (row.get(column) or "").strip() for column in COLUMNS} for row in reader]
        except csv.Error as error:
            raise ValueError(f"csv@{path} cannot be read near line {reader.line_num}: {error}") from error
    pids, camids = (_numbers([row[column] for row in rows]) for column in ("pid", "camid"))
    records: dict[str, list[ReidRecord]] = {split: [] for split in SPLITS}
    first: dict[tuple[str, str], tuple[int, int, int]] = {}
    for number, (row, pid, camid) in enumerate(zip(rows, pids, camids), 1):
        split = row["split"] or "train"
        if not row["path"] or split not in SPLITS or (split == "query" and pid == UNKNOWN):
            raise ValueError(
                f"csv@{path}: row {number} after the header must have a path, a split of {', '.join(SPLITS)}, and a "
                f"query a pid; got {row}"
            )
        records[split].append(ReidRecord(os.path.join(os.path.dirname(path), row["path"]), pid, camid))
        before, *ids = first.setdefault((split, os.path.normpath(row["path"])), (number, pid, camid))
        if ids != [pid, camid]:
            raise ValueError(
                f"csv@{path}: rows {before} and {number} after the header are of one image in one split and differ in "
                f"pid or camid: {rows[before - 1]} and {row}; keep the right one"
            )
    if not rows:
        raise ValueError(f"csv@{path} has no rows")
    return ReidSet(f"csv@{path}", *(tuple(sorted(records[split], key=lambda r: r.path)) for split in SPLITS))


def _numbers(values: list[str]) -> list[int]:
    known = sorted({value for value in values if value not in ("", str(UNKNOWN))})
    if all(value.isdecimal() and len(value) <= LONGEST for value in known):
        numbers = {value: int(value) for value in known}
    else:
        numbers = {value: number for number, value in enumerate(known)}
    return [numbers.get(value, UNKNOWN) for value in values]
