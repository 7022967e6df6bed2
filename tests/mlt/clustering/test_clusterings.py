"""Clusterings by name: what they find at their first call, keep, and take back after a restart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlt.clustering.clusterings import Clustering, JaccardDbscan, KMeansMixture, SelfPacedDbscan
from mlt.clustering.jaccard_dbscan import cluster_dbscan, jaccard_graph, mean_of_smallest
from mlt.clustering.self_paced import self_paced_labels
from mlt.config import get_cfg
from mlt.registry import CLUSTERINGS

GRAPH = {"k1": 8, "k2": 3}


def blobs(spread: float, seed: int = 0) -> Tensor:
    """60 images of 10 identities; the wider the spread, the more distances and labels differ."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(9)))
    return normalize(centres[torch.arange(60) % 10] + spread * torch.randn(60, 8, generator=generator))


def found_eps(features: Tensor, share: float) -> float:
    graph = jaccard_graph(features, max_distance=1.0, window="reranking", **GRAPH)
    return mean_of_smallest(graph, share)


def mmt() -> JaccardDbscan:
    return JaccardDbscan(eps=0.0, min_samples=3, window="reranking", eps_share=0.05, **GRAPH)


def spcl() -> SelfPacedDbscan:
    return SelfPacedDbscan(eps=0.5, gap=0.1, min_samples=3, share=0.5, **GRAPH)


class TestFoundEps:
    def test_is_frozen_at_the_first_clustering(self):
        clustering, first, second = mmt(), blobs(0.2), blobs(0.5)
        eps = found_eps(first, 0.05)
        assert abs(eps - found_eps(second, 0.05)) > 0.02  # so that it matters which one counts
        for features in (first, second):
            expected = cluster_dbscan(features, eps=eps, min_samples=3, window="reranking", **GRAPH)
            assert torch.equal(clustering(features).labels, expected.labels)
            assert clustering.state_dict()["eps"] == eps

    def test_survives_a_restart(self):
        first, second = blobs(0.2), blobs(0.5)
        unbroken, resumed = mmt(), mmt()
        unbroken(first)
        resumed.load_state_dict(unbroken.state_dict())
        fresh = mmt()(second).labels
        assert torch.equal(resumed(second).labels, unbroken(second).labels)
        assert resumed.report == unbroken.report == {"eps": found_eps(first, 0.05)}
        assert not torch.equal(resumed(second).labels, fresh)

    def test_a_given_eps_is_the_eps(self):
        clustering = JaccardDbscan(eps=0.5, min_samples=3, **GRAPH)
        expected = cluster_dbscan(blobs(0.3), eps=0.5, min_samples=3, window="clustering", **GRAPH)
        assert torch.equal(clustering(blobs(0.3)).labels, expected.labels)
        assert clustering.eps == 0.5


class TestSelfPaced:
    def test_the_threshold_is_of_the_first_clustering(self):
        clustering, first, second = spcl(), blobs(0.25), blobs(0.4, seed=1)
        clustering(first)
        threshold = clustering.state_dict()["threshold"]
        graphs = [jaccard_graph(rows, max_distance=0.6, window="clustering", **GRAPH) for rows in (first, second)]
        options = {"eps": 0.5, "gap": 0.1, "min_samples": 3, "share": 0.5}
        assert threshold == self_paced_labels(graphs[0], **options).threshold
        fresh = self_paced_labels(graphs[1], **options)
        assert fresh.threshold != threshold
        kept = self_paced_labels(graphs[1], **options, threshold=threshold)
        assert torch.equal(clustering(second).labels, kept.labels.labels)
        assert not torch.equal(kept.labels.labels, fresh.labels.labels)
        assert clustering.state_dict()["threshold"] == threshold

    def test_survives_a_restart(self):
        first, second = blobs(0.25), blobs(0.4, seed=1)
        unbroken, resumed = spcl(), spcl()
        unbroken(first)
        resumed.load_state_dict(unbroken.state_dict())
        fresh = spcl()(second).labels
        assert torch.equal(resumed(second).labels, unbroken(second).labels)
        assert not torch.equal(resumed(second).labels, fresh)

    def test_everyone_has_a_label(self):
        labels = spcl()(blobs(0.4)).labels[0]
        assert sorted(labels.unique().tolist()) == list(range(int(labels.max()) + 1))


def test_states_are_plain(tmp_path):
    """They go into checkpoints, which are read without running code."""
    for clustering in (mmt(), spcl(), KMeansMixture((4,))):
        clustering(blobs(0.3))
        torch.save(clustering.state_dict(), tmp_path / "state")
        assert torch.load(tmp_path / "state", weights_only=True) == clustering.state_dict()


class TestConfig:
    def test_every_name_builds_from_the_defaults(self):
        cfg = get_cfg()
        for name in CLUSTERINGS:
            assert isinstance(CLUSTERINGS.get(name)(cfg), Clustering)

    @pytest.mark.parametrize("name", ["dbscan", "self_paced"])
    def test_keys_reach_the_graph(self, name):
        cfg = get_cfg()
        cfg.PSEUDO_LABELS.K1, cfg.PSEUDO_LABELS.K2, cfg.PSEUDO_LABELS.EPS = 11, 4, 0.37
        cfg.PSEUDO_LABELS.MIN_SAMPLES, cfg.PSEUDO_LABELS.EPS_GAP = 3, 0.05
        clustering = CLUSTERINGS.get(name)(cfg)
        assert (clustering.graph["k1"], clustering.graph["k2"]) == (11, 4)
        by_hand = {
            "dbscan": JaccardDbscan(0.37, 3, 11, 4),
            "self_paced": SelfPacedDbscan(0.37, 0.05, 3, 11, 4),
        }[name]
        assert torch.equal(clustering(blobs(0.3)).labels, by_hand(blobs(0.3)).labels)

    def test_eps_of_nought_and_its_share(self):
        cfg = get_cfg()
        cfg.PSEUDO_LABELS.EPS, cfg.PSEUDO_LABELS.EPS_SHARE, cfg.PSEUDO_LABELS.WINDOW = 0.0, 0.05, "reranking"
        cfg.PSEUDO_LABELS.K1, cfg.PSEUDO_LABELS.K2 = 8, 3
        clustering = CLUSTERINGS.get("dbscan")(cfg)
        clustering(blobs(0.3))
        assert clustering.eps == found_eps(blobs(0.3), 0.05)
