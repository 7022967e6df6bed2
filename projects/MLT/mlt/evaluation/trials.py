"""One result from one or several divisions of the test images into queries and gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlt.evaluation.metrics import evaluate_features
from mlt.evaluation.query_expansion import expand_features
from mlt.structures import Rows


class Ranking(NamedTuple):
    """How a gallery is ranked.

    Args:
        expansion: options of `expand_features`, applied to the features of a trial first; None: they stay.
        rerank: see `evaluate_features`.
    """

    expansion: Mapping[str, Any] | None = None
    rerank: Mapping[str, Any] | None = None


PLAIN = Ranking()


def evaluate_trials(
    features: Tensor,
    pids: Tensor,
    camids: Tensor,
    trials: Sequence[tuple[Rows, Rows]],
    ranking: Ranking = PLAIN,
) -> dict[str, float]:
    """Means over trials, as protocols with random galleries report them (VehicleID: 10).

    Args:
        features: [N, D] of all test images.
        pids: int64 [N]
        camids: int64 [N], UNKNOWN where nobody knows; a set without cameras is ranked without any filter.
        trials: rows of the queries and of the gallery, at least one pair (`ReidSet.trials`).
        ranking: plain distances, or more than those.

    Returns:
        each metric of `evaluate_features`, averaged.

    Raises:
        ValueError: as `evaluate_features` does.
    """
    results = []
    for q, g in trials:
        query, gallery = features[q], features[g]
        if ranking.expansion is not None:
            both = expand_features(torch.cat([query, gallery]), **ranking.expansion)
            query, gallery = both.split([len(query), len(gallery)])
        ids = pids[q], pids[g], camids[q], camids[g]
        results.append(evaluate_features(query, gallery, *ids, rerank=ranking.rerank))
    return {metric: fmean(result[metric] for result in results) for metric in results[0]}
