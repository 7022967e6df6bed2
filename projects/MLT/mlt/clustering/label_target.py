"""Features or logits of the target images in, pseudo labels out: the pure functions under the pseudo-label hook."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

import torch
from torch import Tensor

import mlt_ops
from mlt.clustering.label_transport import label_transport
from mlt.structures import UNKNOWN, PseudoLabels

logger = logging.getLogger(__name__)


def cluster_kmeans(
    features: Tensor, num_clusters: tuple[int, ...], *, group: int, seed: int, num_restarts: int, max_iter: int
) -> PseudoLabels:
    """The mixture of clusterings: one K-Means for each entry of `num_clusters`, all on the same features.

    Args:
        features: [N, D], finite; unit rows as the papers have them.
        num_clusters: K of each group, >= 1; capped at N with a warning.
        group: the driving group, counted from 0.
        seed: group g clusters with seed + g.
        num_restarts: K-Means runs of which the best is kept, >= 1.
        max_iter: largest number of Lloyd iterations.

    Returns:
        labels [G, N].

    Raises:
        ValueError: no image, no group, a K below 1, or features that are not finite.
    """
    if not len(features) or not num_clusters or min(num_clusters) < 1:
        raise ValueError(
            f"cluster_kmeans: wanted images and PSEUDO_LABELS.NUM_CLUSTERS >= 1, got features {list(features.shape)} "
            f"and {num_clusters}"
        )
    bad = ~torch.isfinite(features).all(dim=1)
    if bad.any():
        raise ValueError(
            f"cluster_kmeans: features of {int(bad.sum())} of {len(features)} images are NaN or infinite (first: image "
            f"{int(bad.nonzero()[0])}); the network has diverged: lower SOLVER.BASE_LR or switch SOLVER.AMP off"
        )
    counts = tuple(min(k, len(features)) for k in num_clusters)
    if counts != tuple(num_clusters):
        logger.warning(
            "K-Means: there are only %d images, so %s clusters become %s.", len(features), num_clusters, counts
        )
    runs = mlt_ops.kmeans_mixture(features, counts, seed=seed, num_restarts=num_restarts, max_iter=max_iter)
    labels = torch.stack([run.labels.cpu() for run in runs])
    return PseudoLabels(labels, counts, group)


def transport_labels(
    logits: Iterable[Tensor], previous: PseudoLabels, *, sharpness: float, tolerance: float, max_iter: int
) -> tuple[PseudoLabels, dict[str, float]]:
    """Re-label every group by label transport. Class k of a group keeps its number, so the heads stay as they are.
    Outliers stay outliers until the next clustering: mass is moved among the other images only.

    Args:
        logits: [N, K_g] for each group in turn; with an iterator only one group's need exist at a time.
        previous: the labels to replace; their clusters tell how many classes each group has.
        sharpness: lambda, see `label_transport`.
        tolerance: see `label_transport`.
        max_iter: see `label_transport`; a warning tells where it was not enough.

    Returns:
        Labels with the same clusters and driving group; and for the log `transport/iterations` and `transport/error`,
        the largest over the groups.

    Raises:
        ValueError: logits of another shape than [N, K_g], or of fewer or more groups.
    """
    results, rows = [], []
    for g, (group_logits, num) in enumerate(zip(logits, previous.num_clusters, strict=True)):
        wanted = (previous.labels.shape[1], num)
        if group_logits.shape != wanted:
            raise ValueError(
                f"transport_labels: logits of group {g} must be {list(wanted)}, got {list(group_logits.shape)}"
            )
        inliers = previous.labels[g] != UNKNOWN
        inlying = group_logits if bool(inliers.all()) else group_logits[inliers.to(group_logits.device)]
        result = label_transport(inlying, sharpness=sharpness, tolerance=tolerance, max_iter=max_iter)
        if not result.converged:
            logger.warning(
                "Label transport of group %d: error %.3g after %d iterations is above LABEL_TRANSPORT.TOLERANCE %.3g; "
                "its labels are used all the same.", g, result.error, result.iterations, tolerance
            )  # fmt: skip
        results.append(result)
        rows.append(previous.labels[g].masked_scatter(inliers, result.labels.cpu()))
    labels = dataclasses.replace(previous, labels=torch.stack(rows))
    return labels, {
        "transport/iterations": float(max(r.iterations for r in results)),
        "transport/error": max(r.error for r in results),
    }


def check_labels(pseudo: PseudoLabels, *, min_clusters: int, previous: PseudoLabels | None = None) -> PseudoLabels:
    """Make sure that the driving group can fill a batch: it needs as many clusters with images as a batch has ids.

    A collapsed driving group is replaced, with a warning, by the next group (cyclically) that has enough clusters;
    when no group has, the previous labels are kept; without those it is an error.

    Args:
        pseudo: new labels.
        min_clusters: ids of a batch, SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE.
        previous: the labels in use until now.

    Raises:
        ValueError: no group has enough clusters and there are no previous labels.
    """
    filled = [int(row[row >= 0].unique().numel()) for row in pseudo.labels]
    for step in range(len(filled)):
        group = (pseudo.group + step) % len(filled)
        if filled[group] >= min_clusters:
            if step:
                logger.warning(
                    "Group %d has %d clusters with images, a batch needs %d: group %d (%d clusters) drives instead.",
                    pseudo.group, filled[pseudo.group], min_clusters, group, filled[group],
                )  # fmt: skip
            return dataclasses.replace(pseudo, group=group)
    shortage = f"the groups have {filled} clusters with images, a batch needs {min_clusters}"
    if previous is None:
        raise ValueError(
            f"The clustering has collapsed: {shortage} (SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE). Lower "
            "SOLVER.IMS_PER_BATCH, raise DATALOADER.NUM_INSTANCE or PSEUDO_LABELS.NUM_CLUSTERS, or start from better "
            "weights."
        )
    logger.warning("The clustering has collapsed: %s. The previous labels are kept.", shortage)
    return previous
