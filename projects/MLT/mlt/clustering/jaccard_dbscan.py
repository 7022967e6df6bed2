"""DBSCAN on k-reciprocal Jaccard distances, never N x N: labels with a free number of clusters, and outliers."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

import mlt_ops
from mlt.structures import UNKNOWN, PseudoLabels
from mlt.utils import comm
from mlt_ops import Neighbors, SparseDistance
from mlt_ops.k_reciprocal import Window, neighbors_needed

logger = logging.getLogger(__name__)

GIANT = 0.5  # a cluster with more than this share of the images is reported


def graph_neighbors(features: Tensor, *, k1: int, k2: int, window: Window) -> Neighbors:
    """What `jaccard_graph` starts from. All processes of a run call it together and share the search: each looks for
    the neighbours of its part of the images, and all get the result, the same bits as one process finds.

    Args:
        features: [N, D], finite unit rows; those of the main process count.
        k1: see `jaccard_graph`.
        k2: see `jaccard_graph`.
        window: see `jaccard_graph`.

    Raises:
        ValueError: no image, malformed features or a parameter out of range.
        RuntimeError: the search has failed on another process.
    """
    width = neighbors_needed(k1, k2, window, "graph_neighbors")
    return mlt_ops.knn(comm.broadcast_rows(features), min(width, len(features)), group=comm.group())


def jaccard_graph(
    features: Tensor, *, max_distance: float, k1: int, k2: int, window: Window, neighbors: Neighbors | None = None
) -> SparseDistance:
    """Jaccard distances up to `max_distance`, by one of the two published conventions.

    Args:
        features: [N, D], finite unit rows.
        max_distance: largest distance that is kept, > 0; at 1 every pair with a common neighbour is.
        k1: neighbours of the reciprocal sets, >= 1.
        k2: rows of the query expansion, >= 1.
        window: "clustering": k1 neighbours with the image itself, squared distances as they are (SpCL, OpenUnReID,
            ClusterContrast, UDAStrongBaseline); "reranking": k1 + 1, squared distances divided by each image's largest
            (MMT).
        neighbors: of `graph_neighbors`; None: this process searches alone.

    Raises:
        ValueError: malformed features or a parameter out of range.
    """
    scale = mlt_ops.largest_distance(features) if window == "reranking" else None
    return mlt_ops.jaccard_distance(
        features, max_distance=max_distance, k1=k1, k2=k2, neighbors=neighbors, window=window, scale=scale
    )


def mean_of_smallest(distance: SparseDistance, share: float) -> float:
    """Mean of the smallest non-zero distances of different images: MMT's eps, which it finds once and keeps.

    Every pair counts once; one that is not stored counts as 1, which is right for a graph with max_distance 1.

    Args:
        distance: Jaccard distances.
        share: share of the non-zero pairs, in (0, 1], at least one pair; MMT 0.0016.

    Raises:
        ValueError: share out of range, no two images that differ, or pairs needed that the graph has cut off.
    """
    if not 0 < share <= 1:
        raise ValueError(f"mean_of_smallest: share (PSEUDO_LABELS.EPS_SHARE) must be in (0, 1], got {share}")
    upper = distance.value[distance.col > distance.row_of_entries()]
    stored = upper[upper > 0].double()
    num_pairs = distance.num_rows * (distance.num_rows - 1) // 2 - (len(upper) - len(stored))
    if num_pairs < 1:
        raise ValueError(f"mean_of_smallest: {distance.num_rows} images, of which no two differ; there is no distance")
    wanted = max(round(share * num_pairs), 1)
    missing = max(wanted - len(stored), 0)
    if missing and distance.max_distance < 1:
        raise ValueError(
            f"mean_of_smallest: the smallest {wanted} distances are wanted, the graph holds {len(stored)}; build it "
            f"with max_distance 1 instead of {distance.max_distance}"
        )
    return (float(stored.topk(wanted - missing, largest=False).values.sum()) + missing) / wanted


def label_graph(distance: SparseDistance, *, eps: float, min_samples: int) -> PseudoLabels:
    """Clusters of a graph as pseudo labels of one group; warnings tell when they can hardly be of use.

    Args:
        distance: of N images.
        eps: largest distance of neighbours, up to the graph's max_distance.
        min_samples: neighbours, the image itself included, that make a core point.

    Returns:
        labels [1, N], -1 for an outlier

    Raises:
        ValueError: a parameter out of range.
    """
    labels = mlt_ops.dbscan(distance, eps=eps, min_samples=min_samples).cpu()
    sizes = torch.bincount(labels[labels != UNKNOWN])
    largest = int(sizes.max()) if len(sizes) else 0
    if not len(sizes):
        logger.warning(
            "DBSCAN: all %d images are outliers at eps %.4g; raise PSEUDO_LABELS.EPS or lower "
            "PSEUDO_LABELS.MIN_SAMPLES (%d).", len(labels), eps, min_samples
        )  # fmt: skip
    elif largest > GIANT * len(labels):
        logger.warning(
            "DBSCAN: one of %d clusters holds %d of %d images at eps %.4g; lower PSEUDO_LABELS.EPS or raise "
            "PSEUDO_LABELS.MIN_SAMPLES (%d).", len(sizes), largest, len(labels), eps, min_samples
        )  # fmt: skip
    return PseudoLabels(labels[None], (len(sizes),))


def cluster_dbscan(
    features: Tensor,
    *,
    eps: float,
    min_samples: int,
    k1: int,
    k2: int,
    window: Window = "clustering",
    neighbors: Neighbors | None = None,
) -> PseudoLabels:
    """The clustering of the DBSCAN methods: Jaccard distances up to eps, then DBSCAN. Nothing has N x N elements.

    Args:
        features: [N, D], finite unit rows.
        eps: largest Jaccard distance of neighbours, > 0. Papers: 0.6; MMT's is `mean_of_smallest`.
        min_samples: neighbours, the image itself included, that make a core point, >= 1. Papers: 4.
        k1: see `jaccard_graph`. Papers: 30; MMT 20.
        k2: see `jaccard_graph`. Papers: 6.
        window: see `jaccard_graph`.
        neighbors: see `jaccard_graph`.

    Returns:
        labels [1, N] of one group, -1 for an outlier

    Raises:
        ValueError: no image, features that are not finite, or a parameter out of range.
    """
    if not len(features):
        raise ValueError(f"cluster_dbscan: wanted images, got features {list(features.shape)}")
    graph = jaccard_graph(features, max_distance=eps, k1=k1, k2=k2, window=window, neighbors=neighbors)
    return label_graph(graph, eps=eps, min_samples=min_samples)
