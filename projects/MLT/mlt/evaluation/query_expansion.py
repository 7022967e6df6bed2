"""Features that take their neighbours along: alpha query expansion."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

import mlt_ops


@torch.no_grad()
def expand_features(features: Tensor, *, num_neighbors: int = 5, alpha: float = 3.0, times: int = 1) -> Tensor:
    """Replace each feature by the mean of its nearest ones, itself among them, weighted by cosine ** alpha.

    Neighbours are found exactly and without an N x N array (`mlt_ops.knn`), queries and gallery together.

    Args:
        features: [N, D], finite, no row zero.
        num_neighbors: rows in the mean, the row itself included, >= 1; more than N act as N.
        alpha: >= 0; 0 makes a plain mean (average query expansion). A negative cosine weighs nothing.
        times: expansions one after another, >= 1.

    Returns:
        float32 [N, D], unit rows

    Raises:
        ValueError: a parameter out of range, or features that are not finite.

    Source: Chum et al., Total Recall, ICCV 2007; Radenovic et al., IEEE TPAMI 2019 (alpha); parameters as FastReID's.
    """
    if num_neighbors < 1 or times < 1 or alpha < 0:
        raise ValueError(
            f"expand_features: wanted num_neighbors >= 1, times >= 1 and alpha >= 0, got {num_neighbors}, {times} and "
            f"{alpha}"
        )
    rows = features.float()
    for _ in range(times):
        near = mlt_ops.knn(normalize(rows), min(num_neighbors, len(rows)))
        weight = (1 - near.distance / 2).clamp_(min=0).pow_(alpha)  # of unit rows, d^2 = 2 - 2 cos
        rows = sum(weight[:, i, None] * rows[near.index[:, i]] for i in range(weight.shape[1]))  # type: ignore[assignment]
        rows = rows / weight.shape[1]
    return normalize(rows)
