"""When to label: a clustering at the start of each round, label transport between epochs.

The hook decides when, `mlt.clustering` decides what, and the host (our trainer, or an adapter) gives features and
takes labels. Source: METHOD section of projects/MLT/README.md; GLT, CVPR 2021.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from torch import Tensor
from torch.nn.functional import normalize
from yacs.config import CfgNode

from mlt.clustering.camera_centering import center_cameras
from mlt.clustering.label_target import check_labels, cluster_kmeans, transport_labels
from mlt.clustering.quality import label_quality
from mlt.config import configurable
from mlt.engine.train_loop import HookBase
from mlt.registry import HOOKS
from mlt.structures import PseudoLabels
from mlt.utils import comm

logger = logging.getLogger(__name__)


class LabelHost(Protocol):
    """What the hook asks of the program that trains."""

    epoch: int

    def extract_target(self) -> Tensor:
        """Embeddings b [N, D] of all target images in their order, by the net that labels."""

    def classify(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Logits [N, K_g] of each group's classifier on embeddings, by the net that labels."""

    def target_ids(self) -> tuple[Tensor, Tensor]:
        """Camera ids, and the identities that only logged quality may see; int64 [N], UNKNOWN where nobody knows."""

    def start_round(self, labels: PseudoLabels, embeddings: Tensor, restart: bool) -> None:
        """New clusters: optionally back to Stage I, then new classifier rows, memory and optimizer moments."""

    def set_pseudo_labels(self, labels: PseudoLabels) -> None:
        """Hand labels to loader and model."""

    def log(self, values: dict[str, float]) -> None:
        """Record numbers of this epoch."""


@HOOKS.register()
class PseudoLabelHook(HookBase):
    """Keeps the pseudo labels of the target images.

    Args:
        host: gives features, takes labels.
        num_clusters: clusters of each group.
        group: the driving group.
        rounds: clusterings in the run.
        period: epochs from one clustering to the next.
        restart: each round starts again from Stage I.
        min_clusters: identities of a batch; fewer clusters than these are a collapse.
        seed: seed of K-Means.
        camera_centering: subtract each camera's mean before clustering.
        kmeans: further arguments of K-Means (num_restarts, max_iter).
        transport_period: epochs between label transports; 0 = never.
        transport_feature: "normalized" or "raw" embeddings for its logits.
        transport: further arguments of label transport (sharpness, tolerance, max_iter).
    """

    @configurable
    def __init__(
        self,
        *,
        host: LabelHost,
        num_clusters: tuple[int, ...],
        group: int,
        rounds: int,
        period: int,
        restart: bool,
        min_clusters: int,
        seed: int = 0,
        camera_centering: bool = False,
        kmeans: dict[str, Any] | None = None,
        transport_period: int = 1,
        transport_feature: str = "normalized",
        transport: dict[str, Any] | None = None,
    ) -> None:
        if transport_feature not in ("normalized", "raw"):
            raise ValueError(f"LABEL_TRANSPORT.FEATURE must be 'normalized' or 'raw', got {transport_feature!r}")
        if not 0 <= group < len(num_clusters):
            raise ValueError(
                f"PSEUDO_LABELS.GROUP {group} is none of the {len(num_clusters)} groups of PSEUDO_LABELS.NUM_CLUSTERS "
                f"{tuple(num_clusters)}; groups are counted from 0"
            )
        self.host = host
        self.num_clusters = tuple(num_clusters)
        self.group = group
        self.cluster_epochs = {r * period for r in range(rounds)}
        self.restart = restart
        self.min_clusters = min_clusters
        self.seed = seed
        self.camera_centering = camera_centering
        self.kmeans = kmeans or {}
        self.transport_period = transport_period
        self.transport_feature = transport_feature
        self.transport = transport or {}
        self.labels: PseudoLabels | None = None
        self.labelled_epoch = -1
        self.quality: dict[str, float] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode, host: LabelHost) -> dict[str, Any]:
        """Constructor arguments from PSEUDO_LABELS.* and LABEL_TRANSPORT.*.

        Args:
            cfg: the config tree.
            host: the program that trains.

        Raises:
            ValueError: an unknown METHOD or SCHEDULE, a number out of range, or a round that MAX_EPOCH cuts off.
        """
        labels, transport = cfg.PSEUDO_LABELS, cfg.LABEL_TRANSPORT
        if labels.METHOD != "kmeans":
            raise ValueError(f"PSEUDO_LABELS.METHOD must be 'kmeans', got {labels.METHOD!r}")
        if labels.SCHEDULE not in ("restart", "warm"):
            raise ValueError(f"PSEUDO_LABELS.SCHEDULE must be 'restart' or 'warm', got {labels.SCHEDULE!r}")
        _check_numbers(cfg)
        return {
            "host": host,
            "num_clusters": labels.NUM_CLUSTERS,
            "group": labels.GROUP,
            "rounds": labels.ROUNDS,
            "period": labels.PERIOD,
            "restart": labels.SCHEDULE == "restart",
            "min_clusters": cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE,
            "seed": cfg.SEED,
            "camera_centering": labels.CAMERA_CENTERING,
            "kmeans": {"num_restarts": labels.NUM_RESTARTS, "max_iter": labels.MAX_ITER},
            "transport_period": transport.PERIOD if transport.ENABLED else 0,
            "transport_feature": transport.FEATURE,
            "transport": {
                "sharpness": transport.LAMBDA,
                "tolerance": transport.TOLERANCE,
                "max_iter": transport.MAX_ITER,
            },
        }

    def before_train(self) -> None:
        """Hand over the labels of a resumed run."""
        if self.labels is not None:
            self.host.set_pseudo_labels(self.labels)

    def before_epoch(self) -> None:
        """Cluster or transport when it is time; a resumed epoch keeps the labels it had."""
        epoch = self.host.epoch
        if epoch == self.labelled_epoch:
            return
        previous = self.labels
        if epoch in self.cluster_epochs or previous is None:
            self._cluster(first=previous is None)
        elif self.transport_period and epoch % self.transport_period == 0:
            self._transport(previous)
        self.labelled_epoch = epoch
        if self.labels is not previous:
            self._log_quality(previous)

    def _cluster(self, *, first: bool) -> None:
        embeddings = self.host.extract_target()
        features = self._features(embeddings)
        labels: PseudoLabels | None = None
        if comm.is_main():
            labels = cluster_kmeans(features, self.num_clusters, group=self.group, seed=self.seed, **self.kmeans)
            labels = check_labels(labels, min_clusters=self.min_clusters, previous=self.labels)
        labels, kept = comm.broadcast_object((labels, labels is self.labels))
        if not kept:  # a collapsed clustering leaves the old one in place
            self.host.start_round(labels, embeddings, restart=self.restart and not first)
        self._hand_over(labels)

    def _transport(self, previous: PseudoLabels) -> None:
        embeddings = self.host.extract_target()
        features = self._features(embeddings)
        if self.transport_feature == "raw":
            features = features * embeddings.norm(dim=1, keepdim=True)
        labels: PseudoLabels | None = None
        if comm.is_main():
            labels, report = transport_labels(self.host.classify(features), previous, **self.transport)
            self.host.log(report)
            labels = check_labels(labels, min_clusters=self.min_clusters, previous=previous)
        self._hand_over(comm.broadcast_object(labels))

    def _features(self, embeddings: Tensor) -> Tensor:
        """Unit rows; without what is common to a camera's images, if so configured."""
        features = normalize(embeddings)
        return center_cameras(features, self.host.target_ids()[0]) if self.camera_centering else features

    def _hand_over(self, labels: PseudoLabels) -> None:
        self.labels = labels
        self.host.set_pseudo_labels(labels)

    def _log_quality(self, previous: PseudoLabels | None) -> None:
        labels = self.labels
        if labels is None or not comm.is_main():
            return
        _, pids = self.host.target_ids()
        self.quality = label_quality(labels.targets, pids, None if previous is None else previous.targets)
        self.host.log({f"labels/{name}": value for name, value in self.quality.items()})

    def state_dict(self) -> dict[str, Any]:
        """The labels and the epoch they were made for."""
        if self.labels is None:
            return {}
        return {
            "labels": self.labels.labels,
            "num_clusters": list(self.labels.num_clusters),
            "group": self.labels.group,
            "labelled_epoch": self.labelled_epoch,
            "quality": self.quality,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Args:
            state: as `state_dict` returned it.
        """
        if state:
            self.labels = PseudoLabels(state["labels"], tuple(state["num_clusters"]), state["group"])
            self.labelled_epoch = state["labelled_epoch"]
            self.quality = state["quality"]


def _check_numbers(cfg: CfgNode) -> None:
    labels, transport = cfg.PSEUDO_LABELS, cfg.LABEL_TRANSPORT
    numbers = {f"PSEUDO_LABELS.{key}": labels[key] for key in ("ROUNDS", "PERIOD", "NUM_RESTARTS", "MAX_ITER")}
    numbers |= {f"LABEL_TRANSPORT.{key}": transport[key] for key in ("PERIOD", "MAX_ITER")}
    for key, value in numbers.items():
        if value < 1:
            raise ValueError(f"{key} must be >= 1, got {value}")
    for key in ("LAMBDA", "TOLERANCE"):
        if transport[key] <= 0:
            raise ValueError(f"LABEL_TRANSPORT.{key} must be > 0, got {transport[key]}")
    begins = (labels.ROUNDS - 1) * labels.PERIOD
    if begins >= cfg.SOLVER.MAX_EPOCH:
        raise ValueError(
            f"PSEUDO_LABELS.ROUNDS {labels.ROUNDS} of PSEUDO_LABELS.PERIOD {labels.PERIOD} epochs: the last would "
            f"begin after {begins} epochs, but SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}. "
            f"Set PSEUDO_LABELS.ROUNDS {-(-cfg.SOLVER.MAX_EPOCH // labels.PERIOD)}, or raise SOLVER.MAX_EPOCH."
        )
