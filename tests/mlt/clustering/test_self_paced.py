"""SpCL's self-paced labels against the definition written with sets."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import mlt_ops
from mlt.clustering.jaccard_dbscan import jaccard_graph
from mlt.clustering.self_paced import self_paced_labels
from mlt_ops import SparseDistance

EPS = {"eps": 0.5, "gap": 0.1, "min_samples": 2}


def sparse(dense: torch.Tensor) -> SparseDistance:
    kept = dense < 1
    return SparseDistance(F.pad(kept.sum(1).cumsum(0), (1, 0)), kept.nonzero()[:, 1], dense[kept], len(dense), 1.0)


def chain(*steps: float) -> SparseDistance:
    """Images in a row with these distances between neighbours, and 1 between all others."""
    dense = 1 - torch.eye(len(steps) + 1)
    for i, step in enumerate(steps):
        dense[i, i + 1] = dense[i + 1, i] = step
    return sparse(dense)


def random_graph(num: int, seed: int) -> SparseDistance:
    dense = torch.rand(num, num, generator=torch.Generator().manual_seed(seed)) ** 0.3
    dense = torch.minimum(dense, dense.T)
    return sparse(dense.fill_diagonal_(0))


def groups(distance: SparseDistance, eps: float, min_samples: int) -> list[frozenset[int]]:
    """The images that share each image's label; an outlier is alone."""
    labels = mlt_ops.dbscan(distance, eps=eps, min_samples=min_samples).tolist()
    return [
        frozenset(j for j, other in enumerate(labels) if other == label) if label >= 0 else frozenset([i])
        for i, label in enumerate(labels)
    ]


def overlap(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def with_sets(
    distance: SparseDistance, eps: float, gap: float, min_samples: int, threshold: float | None, share: float
) -> tuple[set[frozenset[int]], float | None]:
    """Reliable clusters and single images, as a partition; and the threshold."""
    normal, tight, loose = (groups(distance, e, min_samples) for e in (eps, eps - gap, eps + gap))
    dependence = [1 - overlap(a, b) for a, b in zip(normal, loose, strict=True)]
    looseness = [1 - overlap(a, b) for a, b in zip(normal, tight, strict=True)]
    clusters = {group for group in normal if len(group) > 1}
    if threshold is None and clusters:
        ordered = sorted(min(dependence[i] for i in group) for group in clusters)
        threshold = ordered[min(len(ordered) - 1, int(np.round(len(ordered) * share)))]
    kept = []
    for group in clusters:
        if min(dependence[i] for i in group) <= threshold:
            most_compact = min(looseness[i] for i in group)
            kept.append(frozenset(i for i in group if looseness[i] <= most_compact))
    inside = frozenset().union(*kept)
    return {*kept, *(frozenset([i]) for i in range(len(normal)) if i not in inside)}, threshold


def partition(labels: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((labels == k).nonzero().flatten().tolist()) for k in labels.unique()}


@given(
    num=st.integers(1, 40),
    seed=st.integers(0, 1000),
    min_samples=st.integers(1, 4),
    threshold=st.sampled_from([None, 0.0, 0.3]),
    share=st.sampled_from([0.0, 0.5, 0.9]),
)
@settings(max_examples=60)
def test_is_the_definition(num, seed, min_samples, threshold, share):
    graph = random_graph(num, seed)
    args = {"eps": 0.6, "gap": 0.1, "min_samples": min_samples, "threshold": threshold, "share": share}
    found = self_paced_labels(graph, **args)
    expected, expected_threshold = with_sets(graph, *args.values())
    labels = found.labels.targets
    assert partition(labels) == expected
    assert found.threshold == expected_threshold
    sizes = torch.bincount(labels)
    assert found.labels.num_clusters == (len(sizes),)
    assert (sizes[: found.num_clusters] > 1).all()
    assert (sizes[found.num_clusters :] == 1).all()
    assert labels[labels >= found.num_clusters].diff().eq(1).all()  # single images in their order


def test_on_jaccard_distances_of_features():
    features = F.normalize(torch.eye(16)[torch.arange(96) % 12] + 0.35 * torch.randn(96, 16))
    graph = jaccard_graph(features, max_distance=0.8, k1=10, k2=3, window="clustering")
    args = {"eps": 0.7, "gap": 0.1, "min_samples": 4, "threshold": None, "share": 0.9}
    found = self_paced_labels(graph, **args)
    assert partition(found.labels.targets) == with_sets(graph, *args.values())[0]
    plain = mlt_ops.dbscan(graph, eps=0.7, min_samples=4)
    kept = int((found.labels.targets < found.num_clusters).sum())
    assert 0 < kept < int((plain >= 0).sum())  # something stays and something is taken out


def test_what_every_criterion_agrees_on_stays():
    found = self_paced_labels(chain(0.2, 0.2, 0.95, 0.2, 0.95), **EPS)
    assert found.labels.targets.tolist() == [0, 0, 0, 1, 1, 2]
    assert (found.num_clusters, found.threshold) == (2, 0.0)


def test_an_image_that_a_tight_criterion_leaves_out_is_alone():
    found = self_paced_labels(chain(0.2, 0.45, 0.95, 0.2), **EPS)
    assert found.labels.targets.tolist() == [0, 0, 2, 1, 1]


def test_a_cluster_that_a_loose_criterion_swallows_is_dissolved():
    graph = chain(0.2, 0.55, 0.2, 0.95, 0.2, 0.2)
    assert self_paced_labels(graph, **EPS, threshold=0.0).labels.targets.tolist() == [1, 2, 3, 4, 0, 0, 0]
    lenient = self_paced_labels(graph, **EPS, threshold=0.5)  # {0, 1} of {0, 1, 2, 3} is a half
    assert lenient.labels.targets.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert lenient.threshold == 0.5


def test_no_cluster_leaves_the_threshold_open(caplog):
    with caplog.at_level(logging.WARNING):
        found = self_paced_labels(chain(0.9, 0.9), **EPS)
    assert found.labels.targets.tolist() == [0, 1, 2]
    assert (found.num_clusters, found.threshold) == (0, None)
    assert "found no cluster at eps 0.5; raise PSEUDO_LABELS.EPS" in caplog.text


def test_no_image():
    found = self_paced_labels(sparse(torch.zeros(0, 0)), **EPS)
    assert found.labels.labels.shape == (1, 0)


def test_bad_arguments():
    graph = chain(0.5)
    with pytest.raises(ValueError, match=r"EPS_GAP\) must be in \(0, 0.5\), got 0.5"):
        self_paced_labels(graph, eps=0.5, gap=0.5, min_samples=2)
    with pytest.raises(ValueError, match=r"INDEPENDENT_SHARE\) must be in \[0, 1\], got 1.1"):
        self_paced_labels(graph, **EPS, share=1.1)
    with pytest.raises(ValueError, match=r"eps must be above 0 and at most 1.0, the max_distance of the graph"):
        self_paced_labels(graph, eps=0.95, gap=0.1, min_samples=2)
