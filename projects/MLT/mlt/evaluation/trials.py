"""One result from one or several divisions of the test images into queries and gallery."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from torch import Tensor

from mlt.evaluation.metrics import evaluate_features
from mlt.structures import Rows


def evaluate_trials(
    features: Tensor, pids: Tensor, camids: Tensor, trials: Sequence[tuple[Rows, Rows]]
) -> dict[str, float]:
    """Means over trials, as protocols with random galleries report them (VehicleID: 10).

    Args:
        features: [N, D] of all test images.
        pids: int64 [N]
        camids: int64 [N], UNKNOWN where nobody knows; a set without cameras is ranked without any filter.
        trials: rows of the queries and of the gallery, at least one pair (`ReidSet.trials`).

    Returns:
        each metric of `evaluate_features`, averaged.

    Raises:
        ValueError: as `evaluate_features` does.
    """
    results = [evaluate_features(features[q], features[g], pids[q], pids[g], camids[q], camids[g]) for q, g in trials]
    return {metric: fmean(result[metric] for result in results) for metric in results[0]}
