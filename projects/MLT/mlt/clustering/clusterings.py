"""The clusterings that PSEUDO_LABELS.METHOD can name: features in, pseudo labels out, some with a memory of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from mlt.clustering.jaccard_dbscan import cluster_dbscan, mean_of_smallest
from mlt.clustering.label_target import cluster_kmeans
from mlt.config import configurable
from mlt.registry import CLUSTERINGS
from mlt.structures import PseudoLabels


class Clustering:
    """Base of all clusterings: a function of features that may freeze a threshold when it is first called."""

    def __call__(self, features: Tensor) -> PseudoLabels:
        """Cluster.

        Args:
            features: [N, D].
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart: numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Args:
            state: as `state_dict` returned it.
        """


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
            raise ValueError(f"PSEUDO_LABELS.GROUP {group}: there are {len(num_clusters)} groups "
                             f"(PSEUDO_LABELS.NUM_CLUSTERS {tuple(num_clusters)}), counted from 0")  # fmt: skip
        self.num_clusters = tuple(num_clusters)
        self.options = {"group": group, "seed": seed, "num_restarts": num_restarts, "max_iter": max_iter}

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
