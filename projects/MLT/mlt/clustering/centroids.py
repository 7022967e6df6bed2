"""Mean features of clusters, of which classifier rows are made."""

from __future__ import annotations

from torch import Tensor

import mlt_ops
from mlt.structures import PseudoLabels


def cluster_means(features: Tensor, pseudo: PseudoLabels) -> tuple[Tensor, ...]:
    """Mean feature of each cluster of each group; an empty cluster's is zero.

    Args:
        features: [N, D].
        pseudo: labels of the N images.

    Returns:
        G tensors [K_g, D]
    """
    labels = pseudo.labels.to(features.device)
    return tuple(mlt_ops.segment_mean(features, row, k)[0] for row, k in zip(labels, pseudo.num_clusters, strict=True))
