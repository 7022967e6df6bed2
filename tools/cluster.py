#!/usr/bin/env python
"""Cluster features into labels.

    python tools/cluster.py features.npz labels.csv --method dbscan --eps 0.6 --min-samples 4
    python tools/cluster.py features.npz labels.csv --method kmeans --num-clusters 700

The table has the columns path,pid,camid,split, where pid is the cluster, -1 for an outlier, so that `csv@labels.csv` in
a config trains on it. Where identities are known, how well the clusters agree with them is printed.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence

import torch
from tabulate import tabulate
from torch import Tensor

import mlt_ops
from mlt.clustering.camera_centering import center_cameras
from mlt.clustering.quality import label_quality
from mlt.data.datasets.table import COLUMNS
from mlt.utils.feature_file import FeatureFile
from mlt.utils.files import atomic
from mlt.utils.user_errors import one_message


def cluster(features: Tensor, args: argparse.Namespace) -> Tensor:
    """Labels int64 [N], -1 for outliers.

    Args:
        features: [N, D], unit rows.
        args: the command line.

    Raises:
        ValueError: a number out of range.
    """
    if args.method == "kmeans":
        if args.num_clusters is None:
            raise ValueError("--method kmeans needs --num-clusters")
        found = mlt_ops.kmeans(features, args.num_clusters, seed=args.seed, num_restarts=args.restarts)
        return found.labels.cpu()
    distance = mlt_ops.jaccard_distance(features, max_distance=args.eps, k1=args.k1, k2=args.k2)
    return mlt_ops.dbscan(distance, eps=args.eps, min_samples=args.min_samples).cpu()


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", help="archive that tools/extract.py wrote")
    parser.add_argument("output", help="table to write, .csv")
    parser.add_argument("--method", default="dbscan", choices=["dbscan", "kmeans"], help="%(default)s")
    parser.add_argument("--split", default="train", choices=["train", "query", "gallery", "all"], help="%(default)s")
    parser.add_argument("--center-cameras", action="store_true", help="subtract each camera's mean feature first")
    density = parser.add_argument_group("dbscan, on k-reciprocal Jaccard distances")
    density.add_argument("--eps", type=float, default=0.6, help="largest distance of neighbours (%(default)s)")
    density.add_argument("--min-samples", type=int, default=4, help="neighbours of a core image (%(default)s)")
    density.add_argument("--k1", type=int, default=30, help="nearest images (%(default)s)")
    density.add_argument("--k2", type=int, default=6, help="of the query expansion (%(default)s)")
    means = parser.add_argument_group("kmeans")
    means.add_argument("--num-clusters", type=int, help="K")
    means.add_argument("--restarts", type=int, default=10, help="runs of which the best is kept (%(default)s)")
    means.add_argument("--seed", type=int, default=0, help="of the first centroids (%(default)s)")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", default=devices[0], choices=devices, help="%(default)s")
    return parser


@one_message()
def main(words: Sequence[str] | None = None) -> None:
    """Cluster what the command line names.

    Args:
        words: the command line; None = this process's.
    """
    args = get_parser().parse_args(words)
    found = FeatureFile.load(args.features)
    rows = found.rows(args.split)
    features, camids = torch.from_numpy(found.features[rows]).to(args.device), torch.from_numpy(found.camids[rows])
    labels = cluster(center_cameras(features, camids) if args.center_cameras else features, args)
    try:
        with atomic(args.output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            columns = (found.paths[rows], labels.tolist(), camids.tolist(), ["train"] * len(rows))
            table.writerows(zip(*columns, strict=True))
    except UnicodeEncodeError as error:
        name = error.object[: error.end].rpartition("\n")[2]
        raise ValueError(f"a table is UTF-8, but a file's name is not: {name!r} ...; rename it") from error
    print(tabulate(label_quality(labels, torch.from_numpy(found.pids[rows])).items(), tablefmt="plain", floatfmt=".4g"))
    print(f"{args.output}: labels of {len(rows)} images")


if __name__ == "__main__":
    main()
