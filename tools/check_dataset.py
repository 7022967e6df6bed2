#!/usr/bin/env python
"""Is a copy of a data set whole? Compares its counts with the published ones and opens every image.

    python tools/check_dataset.py Market1501 MSMT17             # below FASTREID_DATASETS
    python tools/check_dataset.py VeRi@/data/VeRi --fast        # sees whether the files are there, opens none

Ends with 0 when all is well, 1 when something differs, is missing or cannot be read, 2 when the set is not there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool

from tabulate import tabulate
from tqdm import tqdm

from mlt.data.datasets import PUBLISHED, datasets_root, read_dataset
from mlt.data.image_dataset import decode_image
from mlt.structures import UNKNOWN, ReidRecord, ReidSet

SPLITS = ("train", "query", "gallery")
SHOWN = 20  # broken files that are named
Row = tuple[str, str, int, int | None]  # split, what is counted, found, published


def compare(data: ReidSet) -> list[Row]:
    """Counts of a set beside the published ones, None where there are none.

    Args:
        data: the set; its name without "@PATH" is looked up.
    """
    published = PUBLISHED.get(data.name.partition("@")[0])
    rows: list[Row] = []
    for split in SPLITS:
        records: tuple[ReidRecord, ...] = getattr(data, split)
        expected = getattr(published, split, None)
        rows.append((split, "images", len(records), expected and expected.images))
        rows.append((split, "identities", len({r.pid for r in records} - {UNKNOWN}), expected and expected.pids))
        rows.append((split, "cameras", _num_cameras(records), None))
    rows.append(("all", "cameras", _num_cameras(all_records(data)), published and published.cameras))
    return rows


def _num_cameras(records: Iterable[ReidRecord]) -> int:
    return len({record.camid for record in records} - {UNKNOWN})


def all_records(data: ReidSet) -> tuple[ReidRecord, ...]:
    """Records of all splits.

    Args:
        data: the set.
    """
    return data.train + data.query + data.gallery


def show(rows: Sequence[Row]) -> str:
    """The counts as a table.

    Args:
        rows: what `compare` returned.
    """
    verdict = {True: "as published", False: "DIFFERS"}
    body = [(*row, "" if row[3] is None else verdict[row[2] == row[3]]) for row in rows]
    return tabulate(body, ["split", "", "found", "published", ""], tablefmt="simple", intfmt=",")


def fault(path: str, fast: bool) -> str | None:
    """What is wrong with an image, None if nothing is.

    Args:
        path: the file.
        fast: look whether it is there and not empty, do not decode it.
    """
    if not os.path.isfile(path):
        return "missing"
    if os.path.getsize(path) == 0:
        return "empty"
    try:
        if not fast:
            decode_image(path, (8, 8))
    except Exception as error:  # Pillow's plugins raise whatever their parsers happen to
        return f"unreadable: {error}"
    return None


def faults(paths: Sequence[str], *, fast: bool, jobs: int) -> list[tuple[str, str]]:
    """Paths of broken images and what is wrong with each, in the order given.

    Args:
        paths: the files.
        fast: see `fault`.
        jobs: threads.
    """
    with ThreadPool(jobs) as pool:
        found = pool.imap(lambda path: fault(path, fast), paths, chunksize=64)
        why = list(tqdm(found, total=len(paths), desc="images", leave=False, disable=None))
    return [(path, reason) for path, reason in zip(paths, why) if reason]


def check(name: str, *, root: str, fast: bool, jobs: int) -> int:
    """Check one set and print what was found.

    Args:
        name: as in a config, NAME or NAME@PATH.
        root: folder in which plain names are looked for.
        fast: see `fault`.
        jobs: threads.

    Returns:
        0 when all is well, 1 when something is not, 2 when there is nothing to check.
    """
    try:
        data = read_dataset(name, root=root)
    except (KeyError, OSError, ValueError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}\n", file=sys.stderr)
        return 2
    rows = compare(data)
    paths = list(dict.fromkeys(record.path for record in all_records(data)))
    broken = faults(paths, fast=fast, jobs=jobs)
    print(f"{name}\n\n{show(rows)}\n")
    if data.random_galleries:
        print(f"{len(data.random_galleries)} random galleries: query and gallery above are those of the first")
    print(f"{len(paths):,} files, {'not opened' if fast else 'all opened'}: {len(broken):,} broken")
    for path, reason in broken[:SHOWN]:
        print(f"  {path}: {reason}")
    if len(broken) > SHOWN:
        print(f"  and {len(broken) - SHOWN:,} more")
    print()
    return int(bool(broken) or any(published not in (None, found) for *_, found, published in rows))


def main(words: Sequence[str] | None = None) -> int:
    """Check the sets that the command line names.

    Args:
        words: the command line; None = this process's.

    Returns:
        the exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"NAME or NAME@PATH: {', '.join(PUBLISHED)} ...")
    parser.add_argument("--root", default="", help="folder of the sets; default: FASTREID_DATASETS, else datasets")
    parser.add_argument("--fast", action="store_true", help="do not open the images")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads (%(default)s)")
    args = parser.parse_args(words)
    if args.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {args.jobs}")
    root = datasets_root(args.root)
    return max(check(name, root=root, fast=args.fast, jobs=args.jobs) for name in args.names)


if __name__ == "__main__":
    sys.exit(main())
