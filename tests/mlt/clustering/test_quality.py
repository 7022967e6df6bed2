"""Figures about pseudo labels: hand-made cases, and properties that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mlt.clustering.quality import label_quality


def quality(labels: list[int], **others: list[int]) -> dict[str, float]:
    return label_quality(torch.tensor(labels), **{name: torch.tensor(value) for name, value in others.items()})


def test_sizes_and_outliers() -> None:
    assert quality([0, 0, 0, 5, 5, 7, -1, -1]) == {
        "clusters": 3,
        "outliers": 0.25,
        "size_min": 1,
        "size_median": 2,
        "size_max": 3,
    }


def test_all_outliers_have_no_sizes() -> None:
    assert quality([-1, -1], pids=[3, 3]) == {"clusters": 0, "outliers": 1}


def test_agreement_counts_inliers_with_a_pid() -> None:
    labels, pids = [0, 0, 0, 1, 1, -1, 2], [4, 4, 5, 5, 5, 5, -1]
    found = quality(labels, pids=pids)
    assert found["purity"] == pytest.approx(4 / 5)
    assert found["NMI"] == pytest.approx(normalized_mutual_info_score(pids[:5], labels[:5]))
    assert found["ARI"] == pytest.approx(adjusted_rand_score(pids[:5], labels[:5]))


def test_unknown_pids_give_no_agreement() -> None:
    assert "NMI" not in quality([0, 1], pids=[-1, -1])


@pytest.mark.parametrize(
    ("previous", "labels", "churn"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 0.0),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0.0),  # only the numbers changed
        ([0, 0, 0, 1], [0, 0, 1, 1], 0.25),  # one image moved
        ([0, 0, 0, 0], [0, 0, 0, 1], 0.25),  # a cluster split: its smaller part is new
        ([0, 0, 0, 1], [0, 0, 0, 0], 0.25),  # two merged: the smaller one lost its cluster
        ([-1, -1, 0, 0], [-1, 0, 0, 0], 0.25),  # an outlier was taken in
        ([-1, -1, -1, -1], [0, 0, 1, 1], 1.0),
        ([-1, -1], [-1, -1], 0.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.5),  # all overlaps are equal: one partner each, not two
    ],
)
def test_churn(previous: list[int], labels: list[int], churn: float) -> None:
    assert quality(labels, previous=previous)["churn"] == pytest.approx(churn)


@given(labels=st.lists(st.integers(-1, 6), min_size=1, max_size=40), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_renumbering_is_no_churn_and_pure(labels: list[int], seed: int) -> None:
    names = np.random.default_rng(seed).permutation(7)
    renamed = [int(names[k]) if k >= 0 else -1 for k in labels]
    found = quality(renamed, previous=labels, pids=labels)
    assert found["churn"] == pytest.approx(0)
    assert found.get("purity", 1) == 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="2 labels but 1 pids"):
        quality([0, 1], pids=[0])
    with pytest.raises(ValueError, match="no image"):
        quality([])
