"""One result from one or several divisions of the test images into queries and gallery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlt.evaluation.metrics import evaluate_features
from mlt.evaluation.query_expansion import expand_features
from mlt.structures import Rows


class Refinement(NamedTuple):
    """What a gallery is ranked by beside the plain distances; both together re-rank what is expanded.

    Args:
        expansion: options of `expand_features`, applied to the features of a trial; None: no expansion.
        rerank: see `evaluate_features`; None: no re-ranking.
    """

    expansion: Mapping[str, Any] | None = None
    rerank: Mapping[str, Any] | None = None


def evaluate_trials(
    features: Tensor,
    pids: Tensor,
    camids: Tensor,
    trials: Sequence[tuple[Rows, Rows]],
    refinement: Refinement | None = None,
) -> dict[str, dict[str, float]]:
    """Means over trials, as protocols with random galleries report them (VehicleID: 10).

    Args:
        features: [N, D] of all test images.
        pids: int64 [N]
        camids: int64 [N], UNKNOWN where nobody knows; a set without cameras is ranked without any filter.
        trials: rows of the queries and of the gallery, at least one pair (`ReidSet.trials`).
        refinement: None: plain distances alone.

    Returns:
        "" (plain distances), " expanded" and " re-ranked", as far as asked for -> each metric of `evaluate_features`,
        averaged.

    Raises:
        ValueError: as `evaluate_features` does.
    """
    expansion, rerank = refinement or Refinement()
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    for q, g in trials:
        query, gallery = features[q], features[g]
        ids = pids[q], pids[g], camids[q], camids[g]
        results[""].append(evaluate_features(query, gallery, *ids))
        if expansion is not None:
            both = expand_features(torch.cat([query, gallery]), **expansion)
            query, gallery = both.split([len(query), len(gallery)])
            results[" expanded"].append(evaluate_features(query, gallery, *ids))
        if rerank is not None:
            results[" re-ranked"].append(evaluate_features(query, gallery, *ids, rerank=rerank))
    return {name: {key: fmean(one[key] for one in found) for key in found[0]} for name, found in results.items()}
