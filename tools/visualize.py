#!/usr/bin/env python
"""Look at what a model finds, as one PNG.

    python tools/visualize.py ranks features.npz ranks.png --rows 8 --columns 10
    python tools/visualize.py labels labels.csv clusters.png --rows 20 --columns 12

`ranks`: queries with their nearest gallery images, green for a hit, red for a miss, grey where nobody knows; images of
the query's own identity and camera are left out, as in evaluation. Without a query split every image is compared with
all others. `labels`: clusters of tools/cluster.py, the largest first, outliers last.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mlt.data.datasets import read_dataset
from mlt.data.image_dataset import decode_image
from mlt.structures import UNKNOWN, ReidRecord
from mlt.utils.feature_file import FeatureFile
from mlt.utils.files import atomic
from mlt.utils.user_errors import one_message

HIT, MISS, PLAIN = "tab:green", "tab:red", "tab:gray"
TILE = (128, 64)  # height and width of an image in the sheet, in pixels
DPI = 100


class Tile(NamedTuple):
    """One image of a sheet.

    Args:
        path: the file.
        colour: of its frame.
        text: above it.
    """

    path: str
    colour: str
    text: str


def ranked_lists(found: FeatureFile, num_queries: int, top: int) -> list[list[Tile]]:
    """For some queries, evenly spread over all, the query and its nearest gallery images.

    Args:
        found: features with a query and a gallery split, or neither.
        num_queries: rows.
        top: gallery images of a row.
    """
    has_test = {"query", "gallery"} <= set(found.splits)
    queries, gallery = (found.rows(split if has_test else "all") for split in ("query", "gallery"))
    queries = queries[np.linspace(0, len(queries) - 1, min(num_queries, len(queries))).round().astype(int)]
    return [_ranked_list(found, query, gallery, top) for query in queries]


def _ranked_list(found: FeatureFile, query: int, gallery: np.ndarray, top: int) -> list[Tile]:
    pids, camids = found.pids, found.camids
    own = (pids[gallery] == pids[query]) & (camids[gallery] == camids[query])
    own &= (pids[query] != UNKNOWN) & (camids[query] != UNKNOWN)
    gallery = gallery[~own & (gallery != query)]
    distance = np.linalg.norm(found.features[gallery] - found.features[query], axis=1)
    tiles = [Tile(str(found.paths[query]), "black", f"query {pids[query]}")]
    for row, value in sorted(zip(gallery, distance, strict=True), key=lambda item: item[1])[:top]:
        known = UNKNOWN not in (pids[row], pids[query])
        colour = (HIT if pids[row] == pids[query] else MISS) if known else PLAIN
        tiles.append(Tile(str(found.paths[row]), colour, f"{value:.2f}"))
    return tiles


def cluster_sheet(records: Sequence[ReidRecord], num_clusters: int, size: int) -> list[list[Tile]]:
    """The first images of the largest clusters, and of the outliers.

    Args:
        records: images whose pid is their cluster.
        num_clusters: rows; the outliers take the last one.
        size: images of a row.
    """
    members: dict[int, list[str]] = {}
    for record in records:
        members.setdefault(record.pid, []).append(record.path)
    outliers = members.pop(UNKNOWN, [])
    rows = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))[: num_clusters - bool(outliers)]
    rows += [(UNKNOWN, outliers)] if outliers else []
    return [
        [
            Tile(path, MISS if label == UNKNOWN else PLAIN, "" if i else f"{_name(label)}: {len(paths)}")
            for i, path in enumerate(paths[:size])
        ]
        for label, paths in rows
    ]


def _name(label: int) -> str:
    return "outliers" if label == UNKNOWN else f"cluster {label}"


def draw(rows: Sequence[Sequence[Tile]]) -> Figure:
    """A sheet of framed images.

    Args:
        rows: tiles from left to right, rows from top to bottom.

    Raises:
        OSError: an image cannot be read.
    """
    columns = max(map(len, rows))
    figure = Figure(figsize=(columns * TILE[1] * 1.3 / DPI, len(rows) * TILE[0] * 1.3 / DPI), dpi=DPI)
    for axes_row, tiles in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in axes_row[len(tiles) :]:
            axes.axis("off")
        for axes, tile in zip(axes_row, tiles, strict=False):
            axes.imshow(decode_image(tile.path, TILE).permute(1, 2, 0).numpy())
            axes.set_title(tile.text, fontsize=6, loc="left", pad=2)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=tile.colour, linewidth=3)
    return figure


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ranks", "labels"])
    parser.add_argument("input", help="archive of tools/extract.py, or table of tools/cluster.py")
    parser.add_argument("output", help="PNG to write")
    parser.add_argument("--rows", type=int, default=10, help="queries or clusters (%(default)s)")
    parser.add_argument("--columns", type=int, default=10, help="images of each (%(default)s)")
    return parser


@one_message()
def main(words: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for.

    Args:
        words: the command line; None = this process's.
    """
    args = get_parser().parse_args(words)
    if args.rows < 1 or args.columns < 1:
        raise ValueError(f"--rows and --columns must be >= 1, got {args.rows} and {args.columns}")
    if args.what == "ranks":
        rows = ranked_lists(FeatureFile.load(args.input), args.rows, args.columns)
    else:
        rows = cluster_sheet(read_dataset(f"csv@{args.input}", root="").train, args.rows, args.columns)
    with atomic(args.output) as temporary:
        draw(rows).savefig(temporary, format="png", bbox_inches="tight")
    print(f"{args.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()
