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
from mlt.clustering.clusterings import Clustering
from mlt.clustering.label_target import check_labels, transport_labels
from mlt.clustering.quality import label_quality
from mlt.config import check_least, configurable
from mlt.engine.train_loop import HookBase
from mlt.registry import CLUSTERINGS, HOOKS
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
        clustering: features -> labels.
        rounds: clusterings in the run; 0 = one every `period` epochs to the end.
        period: epochs from one clustering to the next.
        restart: each round starts again from Stage I.
        min_clusters: identities of a batch; fewer clusters than these are a collapse.
        unit_norm: give every feature length 1 before clustering.
        camera_centering: subtract each camera's mean before clustering.
        transport_period: epochs between label transports; 0 = never.
        transport_feature: "normalized" or "raw" embeddings for its logits.
        transport: further arguments of label transport (sharpness, tolerance, max_iter).
    """

    @configurable
    def __init__(
        self,
        *,
        host: LabelHost,
        clustering: Clustering,
        rounds: int,
        period: int,
        restart: bool,
        min_clusters: int,
        unit_norm: bool = True,
        camera_centering: bool = False,
        transport_period: int = 1,
        transport_feature: str = "normalized",
        transport: dict[str, Any] | None = None,
    ) -> None:
        if transport_feature not in ("normalized", "raw"):
            raise ValueError(f"LABEL_TRANSPORT.FEATURE must be 'normalized' or 'raw', got {transport_feature!r}")
        self.host = host
        self.clustering = clustering
        self.rounds = rounds
        self.period = period
        self.restart = restart
        self.min_clusters = min_clusters
        self.unit_norm = unit_norm
        self.camera_centering = camera_centering
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
            ValueError: an unknown SCHEDULE, or a number out of range.
        """
        labels, transport = cfg.PSEUDO_LABELS, cfg.LABEL_TRANSPORT
        if labels.SCHEDULE not in ("restart", "warm"):
            raise ValueError(f"PSEUDO_LABELS.SCHEDULE must be 'restart' or 'warm', got {labels.SCHEDULE!r}")
        _check_numbers(cfg)
        return {
            "host": host,
            "clustering": CLUSTERINGS.get(labels.METHOD)(cfg),
            "rounds": labels.ROUNDS,
            "period": labels.PERIOD,
            "restart": labels.SCHEDULE == "restart",
            "min_clusters": cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE,
            "unit_norm": labels.UNIT_NORM,
            "camera_centering": labels.CAMERA_CENTERING,
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
        turn, rest = divmod(epoch, self.period)
        if previous is None or (rest == 0 and (turn < self.rounds or not self.rounds)):
            self._cluster(first=previous is None)
        elif self.transport_period and epoch % self.transport_period == 0:
            self._transport(previous)
        self.labelled_epoch = epoch
        if self.labels is not previous:
            self._log_quality(previous)

    def _cluster(self, *, first: bool) -> None:
        embeddings = self.host.extract_target()
        features = self._features(embeddings)
        shared = self.clustering.shared(features)

        def compute() -> tuple[PseudoLabels, bool]:
            found, report = self.clustering(features, **shared), self.clustering.report
            if report:
                self.host.log({f"labels/{name}": value for name, value in report.items()})
            labels = check_labels(found, min_clusters=self.min_clusters, previous=self.labels)
            return labels, labels is self.labels

        labels, kept = comm.on_main(compute)
        if not kept:  # a collapsed clustering leaves the old one in place
            self.host.start_round(labels, embeddings, restart=self.restart and not first)
        self._hand_over(labels)

    def _transport(self, previous: PseudoLabels) -> None:
        embeddings = self.host.extract_target()
        features = self._features(embeddings)
        if self.transport_feature == "raw":
            features = features * embeddings.norm(dim=1, keepdim=True)

        def compute() -> PseudoLabels:
            labels, report = transport_labels(self.host.classify(features), previous, **self.transport)
            self.host.log(report)
            return check_labels(labels, min_clusters=self.min_clusters, previous=previous)

        self._hand_over(comm.on_main(compute))

    def _features(self, embeddings: Tensor) -> Tensor:
        """What is clustered; without what is common to a camera's images, if so configured."""
        features = normalize(embeddings) if self.unit_norm else embeddings
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
            "clustering": self.clustering.state_dict(),
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
            self.clustering.load_state_dict(state["clustering"])


def _check_numbers(cfg: CfgNode) -> None:
    labels, transport = cfg.PSEUDO_LABELS, cfg.LABEL_TRANSPORT
    keys = [f"PSEUDO_LABELS.{key}" for key in ("PERIOD", "NUM_RESTARTS", "MAX_ITER")]
    check_least(cfg, dict.fromkeys([*keys, "LABEL_TRANSPORT.PERIOD", "LABEL_TRANSPORT.MAX_ITER"], 1))
    if labels.ROUNDS < 0:
        raise ValueError(
            f"PSEUDO_LABELS.ROUNDS must be >= 1, or 0 for as many as there is time for; got {labels.ROUNDS}"
        )
    for key in ("LAMBDA", "TOLERANCE"):
        if transport[key] <= 0:
            raise ValueError(f"LABEL_TRANSPORT.{key} must be > 0, got {transport[key]}")
