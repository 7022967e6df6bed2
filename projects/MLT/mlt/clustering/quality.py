"""How good pseudo labels are: sizes and stability for everybody, agreement with identities where those are known."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor


def label_quality(labels: Tensor, pids: Tensor | None = None, previous: Tensor | None = None) -> dict[str, float]:
    """Figures about one group's labels, for the log only: nothing is trained on them.

    Always `clusters` (those with an image) and `outliers` (share of images labelled -1), and `size_min`, `size_median`,
    `size_max` of the clusters. With `previous`, `churn`: the share of images that are neither in the cluster matched to
    their previous one nor outliers both times; clusters are matched one to one, the largest overlap first. With
    `pids`, over the images that are no outliers and have a pid: `NMI`, `ARI` (scikit-learn's) and `purity`, the share
    of images that have the commonest pid of their cluster.

    Args:
        labels: int64 [N], -1 for outliers.
        pids: int64 [N], below 0 where unknown.
        previous: int64 [N], labels of the same images before.

    Returns:
        figure -> value; figures that do not exist (no cluster, no known pid) are absent.

    Raises:
        ValueError: lengths differ, or there is no image.
    """
    new = labels.cpu().numpy()
    for name, other in (("pids", pids), ("previous", previous)):
        if other is not None and len(other) != len(new):
            raise ValueError(f"label_quality: {len(new)} labels but {len(other)} {name}")
    if not len(new):
        raise ValueError("label_quality: there is no image")
    sizes = np.unique(new[new >= 0], return_counts=True)[1]
    figures = {"clusters": float(len(sizes)), "outliers": float((new < 0).mean())}
    if len(sizes):
        figures |= {
            "size_min": float(np.min(sizes)),
            "size_median": float(np.median(sizes)),
            "size_max": float(np.max(sizes)),
        }
    if previous is not None:
        figures["churn"] = _churn(previous.cpu().numpy(), new)
    if pids is not None:
        true = pids.cpu().numpy()
        judged = (new >= 0) & (true >= 0)
        if judged.any():
            figures |= _agreement(true[judged], new[judged])
    return figures


def _agreement(true: np.ndarray, new: np.ndarray) -> dict[str, float]:
    _, cluster, overlap = _overlaps(true, new)
    purest = np.zeros(cluster.max() + 1, dtype=np.int64)
    np.maximum.at(purest, cluster, overlap)
    return {
        "NMI": float(normalized_mutual_info_score(true, new)),
        "ARI": float(adjusted_rand_score(true, new)),
        "purity": float(purest.sum() / len(new)),
    }


def _churn(old: np.ndarray, new: np.ndarray) -> float:
    inside = (old >= 0) & (new >= 0)
    kept = int(((old < 0) & (new < 0)).sum())
    if inside.any():
        kept += _matched(*_overlaps(old[inside], new[inside]))
    return 1.0 - kept / len(new)


def _overlaps(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The non-zero entries of the contingency table, as (row, column, count)."""
    width = int(columns.max()) + 1
    pair, count = np.unique(rows.astype(np.int64) * width + columns, return_counts=True)
    return pair // width, pair % width, count


def _matched(rows: np.ndarray, columns: np.ndarray, overlap: np.ndarray) -> int:
    """Images in matched pairs. Pairs that prefer each other match, until no cluster finds a partner any more."""
    matched = 0
    while len(overlap):
        chosen = _is_best(rows, overlap) & _is_best(columns, overlap)
        matched += int(overlap[chosen].sum())
        free = ~np.isin(rows, rows[chosen]) & ~np.isin(columns, columns[chosen])
        rows, columns, overlap = rows[free], columns[free], overlap[free]
    return matched


def _is_best(ids: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Which entries are the largest of their id; of equal ones the first, so that there is one for each id."""
    order = np.lexsort((-overlap, ids))
    best = np.zeros(len(ids), dtype=bool)
    best[order[np.unique(ids[order], return_index=True)[1]]] = True
    return best
