"""From features and logits to pseudo labels, and what happens when a clustering collapses."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from mlt.clustering.label_target import check_labels, cluster_kmeans, transport_labels
from mlt.clustering.label_transport import label_transport
from mlt.structures import PseudoLabels

KMEANS = {"seed": 0, "num_restarts": 3, "max_iter": 50}
TRANSPORT: dict[str, Any] = {"sharpness": 25.0, "tolerance": 1e-2, "max_iter": 1000}


def blobs(num: int = 60, clusters: int = 6) -> tuple[Tensor, Tensor]:
    centres = torch.eye(clusters)
    true = torch.arange(num) % clusters
    return centres[true] + 0.02 * torch.randn(num, clusters, generator=torch.Generator().manual_seed(0)), true


def labels_of(*groups: list[int], group: int = 0) -> PseudoLabels:
    rows = torch.tensor(groups)
    return PseudoLabels(rows, tuple(int(row.max()) + 1 for row in rows), group)


def test_mixture_finds_separated_clusters() -> None:
    features, true = blobs()
    found = cluster_kmeans(features, (6, 3), group=1, **KMEANS)
    assert found.num_clusters == (6, 3)
    assert found.group == 1
    assert len({(int(a), int(b)) for a, b in zip(found.labels[0], true, strict=True)}) == 6


def test_same_seed_same_labels() -> None:
    features = torch.randn(80, 5, generator=torch.Generator().manual_seed(3))
    first, second = (cluster_kmeans(features, (7, 7), group=0, **KMEANS) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.labels[0], first.labels[1])  # each group has its own seed


def test_more_clusters_than_images_are_capped(caplog: pytest.LogCaptureFixture) -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(4))
    with caplog.at_level(logging.WARNING):
        found = cluster_kmeans(features, (2, 9), group=0, **KMEANS)
    assert found.num_clusters == (2, 4)
    assert "only 4 images, so (2, 9) clusters become (2, 4)" in caplog.text


def test_clustering_errors() -> None:
    features, _ = blobs()
    features[7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 60 images are NaN or infinite \(first: image 7\).*SOLVER.BASE_LR"):
        cluster_kmeans(features, (6,), group=0, **KMEANS)
    with pytest.raises(ValueError, match="NUM_CLUSTERS >= 1"):
        cluster_kmeans(torch.zeros(4, 2), (2, 0), group=0, **KMEANS)
    with pytest.raises(ValueError, match="wanted images"):
        cluster_kmeans(torch.zeros(0, 2), (2,), group=0, **KMEANS)


def test_transport_relabels_every_group() -> None:
    generator = torch.Generator().manual_seed(5)
    previous = PseudoLabels(torch.zeros(2, 50, dtype=torch.int64), (4, 6), 1)
    logits = [torch.randn(50, k, generator=generator) for k in (4, 6)]
    labels, report = transport_labels(iter(logits), previous, **TRANSPORT)
    for g in range(2):
        assert torch.equal(labels.labels[g], label_transport(logits[g]).labels)
    assert (labels.num_clusters, labels.group) == ((4, 6), 1)
    assert report["transport/iterations"] == max(label_transport(z).iterations for z in logits)
    assert 0 <= report["transport/error"] <= TRANSPORT["tolerance"]


def test_transport_leaves_outliers_alone() -> None:
    """Neither do they get a label, nor do they take any class's mass."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.arange(60).remainder(4).repeat(2, 1)
    rows[0, ::3] = rows[1, 1:9] = -1
    previous = PseudoLabels(rows, (4, 4), 0)
    logits = [torch.randn(60, 4, generator=generator) for _ in range(2)]
    logits[0][::3] *= 100  # as an outlier's may be
    labels, _ = transport_labels(logits, previous, **TRANSPORT)
    for g in range(2):
        inliers = rows[g] >= 0
        assert (labels.labels[g][~inliers] == -1).all()
        assert torch.equal(labels.labels[g][inliers], label_transport(logits[g][inliers]).labels)
    sizes = torch.bincount(labels.labels[0][rows[0] >= 0], minlength=4)
    assert sizes.max() - sizes.min() <= 2  # 40 inliers in equal shares


def test_transport_warns_when_iterations_run_out(caplog: pytest.LogCaptureFixture) -> None:
    logits = 9 * torch.randn(50, 5, generator=torch.Generator().manual_seed(6))
    previous = PseudoLabels(torch.zeros(1, 50, dtype=torch.int64), (5,))
    with caplog.at_level(logging.WARNING):
        _, report = transport_labels([logits], previous, **(TRANSPORT | {"max_iter": 5}))
    assert "after 5 iterations is above LABEL_TRANSPORT.TOLERANCE" in caplog.text
    assert report["transport/error"] > TRANSPORT["tolerance"]


def test_transport_refuses_other_shapes() -> None:
    previous = PseudoLabels(torch.zeros(1, 5, dtype=torch.int64), (3,))
    with pytest.raises(ValueError, match=r"group 0 must be \[5, 3\], got \[5, 4\]"):
        transport_labels([torch.zeros(5, 4)], previous, **TRANSPORT)
    with pytest.raises(ValueError, match="argument"):
        transport_labels([torch.zeros(5, 3)] * 2, previous, **TRANSPORT)


def test_enough_clusters_pass_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of([0, 1, 2], [0, 0, 0], group=0)
    checked = check_labels(labels, min_clusters=3)
    assert checked.labels is labels.labels
    assert (checked.num_clusters, checked.group) == (labels.num_clusters, labels.group)
    assert not caplog.records


def test_comparing_labels_is_no_error() -> None:
    assert labels_of([0, 1, 2]) != labels_of([0, 1, 2])  # like SparseDistance, equal to itself alone


def test_another_group_drives_when_the_driving_one_collapsed(caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of([0, 1, 2, -1], [0, 0, 0, 0], [0, 1, 1, -1], group=1)
    checked = check_labels(labels, min_clusters=3)
    assert checked.group == 0  # group 2 has only two clusters with images
    assert torch.equal(checked.labels, labels.labels)
    assert "Group 1 has 1 clusters with images, a batch needs 3: group 0 (3 clusters) drives instead" in caplog.text


def test_previous_labels_stay_when_every_group_collapsed(caplog: pytest.LogCaptureFixture) -> None:
    previous = labels_of([0, 1, 2, 3])
    assert check_labels(labels_of([0, 0, 1, -1]), min_clusters=3, previous=previous) is previous
    assert "previous labels are kept" in caplog.text


def test_collapse_without_previous_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] clusters with images, a batch needs 3 \(SOLVER.IMS_PER_BATCH"):
        check_labels(labels_of([0, 0], [0, 1]), min_clusters=3)
