"""DBSCAN on sparse Jaccard distances against the published dense code, and MMT's own eps."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from mlt.clustering.jaccard_dbscan import cluster_dbscan, jaccard_graph, label_graph, mean_of_smallest
from mlt_ops import SparseDistance, reference

GOLDEN = Path(__file__).parents[2] / "golden"
PAPER = {"min_samples": 4, "k1": 10, "k2": 3}


def blobs(num: int, clusters: int, noise: float = 0.1) -> torch.Tensor:
    centres = F.normalize(torch.randn(clusters, 16))
    return F.normalize(centres[torch.arange(num) % clusters] + noise * torch.randn(num, 16))


def sparse(dense: torch.Tensor, max_distance: float = 1.0) -> SparseDistance:
    """A graph that stores what is at most max_distance apart, but no 1."""
    kept = (dense <= max_distance) & (dense < 1)
    rowptr = F.pad(kept.sum(1).cumsum(0), (1, 0))
    return SparseDistance(rowptr, kept.nonzero()[:, 1], dense[kept], len(dense), max_distance)


def symmetric(upper: list[float], num: int) -> torch.Tensor:
    dense = torch.zeros(num, num)
    dense[tuple(torch.triu_indices(num, num, 1))] = torch.tensor(upper)
    return dense + dense.T


class TestClusters:
    @pytest.mark.parametrize("case", "abcd")
    @pytest.mark.parametrize("eps", [0.4, 0.5, 0.6])
    def test_golden(self, case, eps):
        with np.load(GOLDEN / f"jaccard_{case}.npz") as file:
            features, expected = torch.from_numpy(file["features"]), file[f"dbscan_eps{eps}_min4"]
            k1, k2 = int(file["k1"]), int(file["k2"])
        found = cluster_dbscan(features, eps=eps, min_samples=4, k1=k1, k2=k2)
        assert np.array_equal(found.targets.numpy(), expected)
        assert found.num_clusters == (expected.max() + 1,)
        assert found.group == 0

    def test_mmts_convention_is_that_of_dense_reranking(self):
        """Windows of k1 + 1 and distances divided by each image's largest, against the oracle."""
        features = blobs(60, 6, 0.3)
        rows = features.numpy().astype(np.float64)
        largest = ((rows[:, None] - rows[None]) ** 2).sum(2).max(1)
        distance, index = reference.knn(rows, 11)
        sets = reference.k_reciprocal(rows, distance, index, 10, "reranking", largest)
        expected = reference.jaccard(reference.expand_query(sets, index, 3))
        graph = jaccard_graph(features, max_distance=1.0, k1=10, k2=3, window="reranking")
        np.testing.assert_allclose(graph.to_dense().numpy(), expected, rtol=0, atol=2e-6)
        plain = jaccard_graph(features, max_distance=1.0, k1=10, k2=3, window="clustering")
        assert (graph.to_dense() - plain.to_dense()).abs().max() > 0.01

    def test_equal_images_are_one_cluster_under_both_conventions(self):
        features = torch.ones(6, 4) / 2
        for window in ("clustering", "reranking"):
            found = cluster_dbscan(features, eps=0.5, window=window, **PAPER)
            assert found.targets.tolist() == [0] * 6

    def test_errors(self):
        features = blobs(12, 3)
        features[7, 2] = float("nan")
        with pytest.raises(ValueError, match=r"must be finite, but 1 of 12 rows"):
            cluster_dbscan(features, eps=0.5, **PAPER)
        with pytest.raises(ValueError, match=r"wanted images, got features \[0, 4\]"):
            cluster_dbscan(torch.zeros(0, 4), eps=0.5, **PAPER)
        with pytest.raises(ValueError, match="max_distance must be positive"):
            cluster_dbscan(blobs(12, 3), eps=0.0, **PAPER)
        with pytest.raises(ValueError, match="min_samples must be at least 1"):
            cluster_dbscan(blobs(12, 3), eps=0.5, min_samples=0, k1=10, k2=3)
        with pytest.raises(ValueError, match="window must be"):
            cluster_dbscan(blobs(12, 3), eps=0.5, window="dense", **PAPER)


class TestWarnings:
    def test_good_clusters_are_silent(self, caplog):
        found = cluster_dbscan(blobs(60, 6), eps=0.6, **PAPER)
        assert found.num_clusters == (6,)
        assert not caplog.records

    def test_all_outliers(self, caplog):
        graph = sparse(symmetric([0.8, 0.9, 0.7], 3))
        with caplog.at_level(logging.WARNING):
            found = label_graph(graph, eps=0.5, min_samples=2)
        assert found.targets.tolist() == [-1, -1, -1]
        assert found.num_clusters == (0,)
        assert "all 3 images are outliers at eps 0.5; raise PSEUDO_LABELS.EPS or lower" in caplog.text

    def test_a_giant(self, caplog):
        graph = sparse(symmetric([0.1, 0.1, 0.9, 0.1, 0.9, 0.9], 4))
        with caplog.at_level(logging.WARNING):
            found = label_graph(graph, eps=0.5, min_samples=2)
        assert found.targets.tolist() == [0, 0, 0, -1]
        assert "one of 1 clusters holds 3 of 4 images at eps 0.5; lower PSEUDO_LABELS.EPS" in caplog.text


def published_eps(dense: np.ndarray, share: float) -> float:
    """As MMT writes it; it would divide by 0 where this has at least one."""
    values = np.triu(dense, 1)
    values = np.sort(values[np.nonzero(values)])
    return float(values[: max(np.round(share * values.size).astype(int), 1)].astype(np.float64).mean())


class TestMeanOfSmallest:
    @given(
        upper=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0, 1.0]), min_size=15, max_size=15),
        share=st.sampled_from([0.0016, 0.2, 0.5, 1.0]),
    )
    @settings(max_examples=30)
    def test_is_the_published_rule(self, upper, share):
        dense = symmetric([*upper[:-1], 0.3], 6)
        assert mean_of_smallest(sparse(dense), share) == pytest.approx(published_eps(dense.numpy(), share), abs=1e-7)

    def test_on_real_distances_it_clusters(self):
        graph = jaccard_graph(blobs(120, 6, 0.2), max_distance=1.0, k1=10, k2=3, window="reranking")
        eps = mean_of_smallest(graph, 0.05)
        assert eps == pytest.approx(published_eps(graph.to_dense().numpy(), 0.05), rel=1e-6)
        dense = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit_predict(graph.to_dense().numpy())
        assert np.array_equal(label_graph(graph, eps=eps, min_samples=4).targets.numpy(), dense)

    def test_a_graph_that_was_cut_off(self):
        dense = symmetric([0.1, 0.9, 0.9, 0.9, 0.9, 0.9], 4)
        assert mean_of_smallest(sparse(dense, 0.5), 0.1) == pytest.approx(0.1)
        with pytest.raises(ValueError, match="smallest 3 distances are wanted, the graph holds 1; build it with max_"):
            mean_of_smallest(sparse(dense, 0.5), 0.5)

    @pytest.mark.parametrize("num", [1, 3])
    def test_no_distance(self, num):
        with pytest.raises(ValueError, match=f"{num} images, of which no two differ"):
            mean_of_smallest(sparse(torch.zeros(num, num)), 0.5)

    @pytest.mark.parametrize("share", [0.0, 1.5])
    def test_bad_share(self, share):
        with pytest.raises(ValueError, match=r"EPS_SHARE\) must be in \(0, 1\]"):
            mean_of_smallest(sparse(torch.zeros(2, 2)), share)
