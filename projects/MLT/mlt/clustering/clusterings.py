"""The clusterings that PSEUDO_LABELS.METHOD can name: features in, pseudo labels out; some keep a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from mlt.clustering.jaccard_dbscan import (
    cluster_dbscan,
    graph_neighbors,
    jaccard_graph,
    label_graph,
    mean_of_smallest,
)
from mlt.clustering.label_target import cluster_kmeans
from mlt.clustering.self_paced import self_paced_labels
from mlt.config import configurable
from mlt.registry import CLUSTERINGS
from mlt.structures import PseudoLabels
from mlt_ops import Neighbors
from mlt_ops.k_reciprocal import Window


class Clustering:
    """Base of all clusterings: a function of features that may freeze a threshold when it is first called.

    Attributes:
        report: numbers of the last call, for the log.
        kept: names of the attributes that belong to a checkpoint.
    """

    kept: tuple[str, ...] = ()
    report: Mapping[str, float] = MappingProxyType({})

    @classmethod
    def num_clusters_of(cls, cfg: CfgNode) -> tuple[int, ...]:
        """Clusters of each group that a config asks for; () if there is one group, of as many as the data have.

        Args:
            cfg: the whole tree.
        """
        return ()

    def shared(self, features: Tensor) -> dict[str, Any]:
        """What all processes compute together before the main one clusters, as further arguments of the call.

        Args:
            features: [N, D].
        """
        return {}

    def __call__(self, features: Tensor) -> PseudoLabels:
        """Cluster; in a run of several processes the main one calls it alone.

        Args:
            features: [N, D].
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart: the attributes named in `kept`."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Args:
            state: as `state_dict` returned it.
        """
        for name in self.kept:
            setattr(self, name, state[name])


@CLUSTERINGS.register("kmeans")
class KMeansMixture(Clustering):
    """One K-Means for each entry of `num_clusters` (MLT's mixture; with one entry, MMT).

    Args:
        num_clusters: K of each group.
        group: the driving group, counted from 0.
        seed: group g clusters with seed + g.
        num_restarts: runs of which the best is kept.
        max_iter: largest number of Lloyd iterations.

    Raises:
        ValueError: `group` is not one of the groups.
    """

    @configurable
    def __init__(
        self, num_clusters: tuple[int, ...], group: int = 0, seed: int = 0, num_restarts: int = 10, max_iter: int = 300
    ) -> None:
        if not 0 <= group < len(num_clusters):
            raise ValueError(
                f"PSEUDO_LABELS.GROUP {group} is none of the {len(num_clusters)} groups of PSEUDO_LABELS.NUM_CLUSTERS "
                f"{tuple(num_clusters)}; groups are counted from 0"
            )
        self.num_clusters = tuple(num_clusters)
        self.options = {"group": group, "seed": seed, "num_restarts": num_restarts, "max_iter": max_iter}

    @classmethod
    def num_clusters_of(cls, cfg: CfgNode) -> tuple[int, ...]:
        """PSEUDO_LABELS.NUM_CLUSTERS.

        Args:
            cfg: the whole tree.
        """
        return tuple(cfg.PSEUDO_LABELS.NUM_CLUSTERS)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from PSEUDO_LABELS and SEED.

        Args:
            cfg: the whole tree.
        """
        labels = cfg.PSEUDO_LABELS
        return {
            "num_clusters": labels.NUM_CLUSTERS,
            "group": labels.GROUP,
            "seed": cfg.SEED,
            "num_restarts": labels.NUM_RESTARTS,
            "max_iter": labels.MAX_ITER,
        }

    def __call__(self, features: Tensor) -> PseudoLabels:
        """Cluster; see `cluster_kmeans`.

        Args:
            features: [N, D].
        """
        return cluster_kmeans(features, self.num_clusters, **self.options)


class JaccardClustering(Clustering):
    """Base of the clusterings of Jaccard distances, whose neighbour search all processes share.

    Attributes:
        graph: k1, k2 and window of `jaccard_graph`.
    """

    graph: dict[str, Any]

    def shared(self, features: Tensor) -> dict[str, Any]:
        """The images' neighbours; see `graph_neighbors`.

        Args:
            features: [N, D] unit rows.
        """
        return {"neighbors": graph_neighbors(features, **self.graph)}


@CLUSTERINGS.register("dbscan")
class JaccardDbscan(JaccardClustering):
    """DBSCAN on k-reciprocal Jaccard distances (MLT-DBSCAN, MMT, strong baseline, ClusterContrast).

    Args:
        eps: largest distance of neighbours; 0 = found at the first clustering from `eps_share`, then kept (MMT).
        min_samples: neighbours, the image itself included, that make a core point.
        k1: see `jaccard_graph`.
        k2: see `jaccard_graph`.
        window: see `jaccard_graph`.
        eps_share: see `mean_of_smallest`.
    """

    @configurable
    def __init__(
        self,
        eps: float = 0.6,
        min_samples: int = 4,
        k1: int = 30,
        k2: int = 6,
        window: Window = "clustering",
        eps_share: float = 0.0016,
    ) -> None:
        self.eps = eps
        self.kept = () if eps > 0 else ("eps",)  # one that is given may be changed for the rest of a run
        self.min_samples = min_samples
        self.graph = {"k1": k1, "k2": k2, "window": window}
        self.eps_share = eps_share

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from PSEUDO_LABELS.

        Args:
            cfg: the whole tree.
        """
        labels = cfg.PSEUDO_LABELS
        return {
            "eps": labels.EPS,
            "min_samples": labels.MIN_SAMPLES,
            "k1": labels.K1,
            "k2": labels.K2,
            "window": labels.WINDOW,
            "eps_share": labels.EPS_SHARE,
        }

    def __call__(self, features: Tensor, neighbors: Neighbors | None = None) -> PseudoLabels:
        """Cluster.

        Args:
            features: [N, D] unit rows.
            neighbors: what `shared` found; None: they are searched here.
        """
        graph_of = {**self.graph, "neighbors": neighbors}
        if self.eps > 0:
            labels = cluster_dbscan(features, eps=self.eps, min_samples=self.min_samples, **graph_of)
        else:
            graph = jaccard_graph(features, max_distance=1.0, **graph_of)
            self.eps = mean_of_smallest(graph, self.eps_share)
            labels = label_graph(graph, eps=self.eps, min_samples=self.min_samples)
        self.report = {"eps": self.eps}
        return labels


@CLUSTERINGS.register("self_paced")
class SelfPacedDbscan(JaccardClustering):
    """SpCL's reliable clusters; every other image has a label of its own. See `self_paced_labels`.

    Args:
        eps: largest distance of neighbours, > 0.
        gap: to the tighter and to the looser eps.
        min_samples: neighbours, the image itself included, that make a core point.
        k1: see `jaccard_graph`.
        k2: see `jaccard_graph`.
        share: share of the first clustering's clusters that pass its threshold of independence.
    """

    kept = ("threshold",)

    @configurable
    def __init__(
        self, eps: float = 0.6, gap: float = 0.02, min_samples: int = 4, k1: int = 30, k2: int = 6, share: float = 0.9
    ) -> None:
        self.options: dict[str, Any] = {"eps": eps, "gap": gap, "min_samples": min_samples, "share": share}
        self.graph = {"k1": k1, "k2": k2, "window": "clustering"}
        self.max_distance = eps + gap
        self.threshold: float | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from PSEUDO_LABELS.

        Args:
            cfg: the whole tree.
        """
        labels = cfg.PSEUDO_LABELS
        return {
            "eps": labels.EPS,
            "gap": labels.EPS_GAP,
            "min_samples": labels.MIN_SAMPLES,
            "k1": labels.K1,
            "k2": labels.K2,
            "share": labels.INDEPENDENT_SHARE,
        }

    def __call__(self, features: Tensor, neighbors: Neighbors | None = None) -> PseudoLabels:
        """Cluster.

        Args:
            features: [N, D] unit rows.
            neighbors: what `shared` found; None: they are searched here.
        """
        graph = jaccard_graph(features, max_distance=self.max_distance, **self.graph, neighbors=neighbors)
        result = self_paced_labels(graph, **self.options, threshold=self.threshold)
        self.threshold = result.threshold
        kept = float((result.labels.targets < result.num_clusters).double().mean())
        self.report = {"reliable_clusters": float(result.num_clusters), "kept": kept}
        return result.labels
