"""Self-paced clusters of SpCL: only what is clustered alike under a tighter and a looser criterion stays together."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

import mlt_ops
from mlt.structures import UNKNOWN, PseudoLabels
from mlt_ops import SparseDistance

logger = logging.getLogger(__name__)


class SelfPacedLabels(NamedTuple):
    """Reliable clusters, and everything else image by image.

    `labels` is one group in which every image has a label: the first `num_clusters` have two images or more, in the
    order of their clusters, the others one, in the order of the images. `threshold` is to be given to the next call.
    """

    labels: PseudoLabels
    num_clusters: int
    threshold: float | None


def self_paced_labels(
    distance: SparseDistance,
    *,
    eps: float,
    gap: float,
    min_samples: int,
    threshold: float | None = None,
    share: float = 0.9,
) -> SelfPacedLabels:
    """DBSCAN at eps, corrected by DBSCAN at eps - gap and at eps + gap, on one graph.

    With I(i) the images that share i's label (an outlier is alone), independence of i is the Jaccard index of I(i) and
    its like at eps + gap, compactness that of I(i) and its like at eps - gap; a cluster has the best of its images. A
    cluster whose 1 - independence is above the threshold is dissolved, and so is from every other one an image that is
    less compact than the best. Source: Ge et al., SpCL, NeurIPS 2020, section 3.3, and its code.

    Args:
        distance: of N images, with a max_distance of eps + gap at least.
        eps: largest distance of neighbours; paper 0.6.
        gap: between the criteria, in (0, eps); paper 0.02.
        min_samples: neighbours, the image itself included, that make a core point; paper 4.
        threshold: largest 1 - independence; None: found here and to be kept for the rest of the run.
        share: share of the clusters, most independent first, that a new threshold lets pass; in [0, 1], paper 0.9.

    Raises:
        ValueError: a parameter out of range.
    """
    if not 0 < gap < eps:
        raise ValueError(f"self_paced_labels: gap (PSEUDO_LABELS.EPS_GAP) must be in (0, {eps}), got {gap}")
    if not 0 <= share <= 1:
        raise ValueError(f"self_paced_labels: share (PSEUDO_LABELS.INDEPENDENT_SHARE) must be in [0, 1], got {share}")
    normal, tight, loose = (
        _everyone_labelled(mlt_ops.dbscan(distance, eps=e, min_samples=min_samples).cpu())
        for e in (eps, eps - gap, eps + gap)
    )
    dependence, looseness = 1 - _agreement(normal, loose), 1 - _agreement(normal, tight)
    least_dependence, least_looseness = _least(dependence, normal), _least(looseness, normal)
    if threshold is None:
        threshold = _quantile(least_dependence[torch.bincount(normal) > 1], share)
    if threshold is None:  # no cluster: every image is alone already
        logger.warning("SpCL: DBSCAN found no cluster at eps %.4g; raise PSEUDO_LABELS.EPS.", eps)
        stays = torch.zeros_like(normal, dtype=torch.bool)
    else:
        stays = (least_dependence[normal] <= threshold) & (looseness <= least_looseness[normal])
    labels, num_clusters = _renumber(torch.where(stays, normal, UNKNOWN))
    num_labels = int(labels.max()) + 1 if len(labels) else 0
    return SelfPacedLabels(PseudoLabels(labels[None], (num_labels,)), num_clusters, threshold)


def _everyone_labelled(labels: Tensor) -> Tensor:
    """Outliers get numbers of their own, behind those of the clusters."""
    alone = labels == UNKNOWN
    first = labels.max() + 1 if len(labels) else 0
    return torch.where(alone, first + alone.cumsum(0) - 1, labels)


def _agreement(a: Tensor, b: Tensor) -> Tensor:
    """Jaccard index of the images that share i's label in `a` and in `b`, for every image; float64 [N]."""
    both, counts = torch.stack([a, b]).unique(dim=1, return_inverse=True, return_counts=True)[1:]
    common = counts[both]
    union = torch.bincount(a)[a] + torch.bincount(b)[b] - common
    return common.double() / union


def _least(values: Tensor, labels: Tensor) -> Tensor:
    """Smallest value of each label's images."""
    return values.new_full((len(torch.bincount(labels)),), torch.inf).scatter_reduce_(0, labels, values, "amin")


def _quantile(values: Tensor, share: float) -> float | None:
    """The published code's element: number round(share * n) of the sorted values, counted from 0; None without any."""
    place = min(round(share * len(values)), len(values) - 1)
    return float(values.sort().values[place]) if len(values) else None


def _renumber(labels: Tensor) -> tuple[Tensor, int]:
    """Labels of two images or more first, then one for every other image; and how many the former are."""
    labels = _everyone_labelled(labels)
    sizes = torch.bincount(labels)
    shared = sizes > 1
    number = torch.where(shared, shared.cumsum(0) - 1, UNKNOWN)
    return _everyone_labelled(number[labels]), int(shared.sum())
