"""Head with one classifier for each clustering of the target images: the mixture of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads.neck_head import CLASSIFIER_STD, HeadOutput, NeckHead
from mlt.registry import CLUSTERINGS, HEADS

INITS = ("normal", "centroid")
MEMORY_FEATURES = ("projection", "embedding")


@HEADS.register()
class MixtureLabelHead(NeckHead):
    """Pooling, BNNeck, G bias-free classifiers of fixed capacity, and the memory projection.

    A new clustering re-initialises classifier rows in place, because replaced Parameters would break the optimizer,
    DDP and the resuming of a run. With `num_source`, each classifier has rows of source identities before those of
    the clusters. Rows behind the `active[g]` clusters are cut off the logits. Source: Zheng et al., CVPR 2021.

    Args:
        in_channels: channels C of the feature map.
        capacities: clusters that each classifier can hold, G numbers >= 1.
        pool_layer: a key of POOL_LAYERS.
        cls_layer: "Linear", or "CosSoftmax": scale times the cosine.
        scale: factor of the cosine, > 0.
        dropout: probability before classifiers and projection, in [0, 1).
        with_projection: add the memory head, Linear and batch norm, whose output h the memory compares.
        num_source: source identities S that every classifier tells apart as well, >= 0.
    """

    active: Tensor

    @configurable
    def __init__(
        self,
        in_channels: int,
        capacities: Sequence[int],
        pool_layer: str = "GeneralizedMeanPoolingP",
        cls_layer: str = "Linear",
        scale: float = 16.0,
        dropout: float = 0.0,
        with_projection: bool = True,
        num_source: int = 0,
    ) -> None:
        super().__init__(in_channels, pool_layer, cls_layer, scale, dropout)
        if not capacities or min(capacities) < 1:
            raise ValueError(f"MixtureLabelHead needs at least one classifier with rows, got capacities {capacities}")
        self.num_source = num_source
        self.classifiers = nn.ParameterList(
            nn.Parameter(torch.randn(num_source + rows, in_channels) * CLASSIFIER_STD) for rows in capacities
        )
        self.register_buffer("active", torch.tensor(capacities))
        self.num_active = tuple(capacities)  # `active` as Python numbers: reading the buffer would wait for the GPU
        self.register_load_state_dict_post_hook(_read_active)
        self.projection: nn.Sequential | None = None
        if with_projection:
            self.projection = nn.Sequential(nn.Linear(in_channels, in_channels), nn.BatchNorm1d(in_channels))
            self.reset_projection()

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Constructor arguments from MODEL.HEADS, PSEUDO_LABELS and MEMORY.

        Args:
            cfg: the whole tree.
            in_channels: channels of the feature map.

        Raises:
            ValueError: more clusters than MODEL.HEADS.MAX_CLUSTERS, a clustering of free size without it, or an unknown
                MODEL.HEADS.INIT or MEMORY.FEATURE.
        """
        for key, value, known in (("MODEL.HEADS.INIT", cfg.MODEL.HEADS.INIT, INITS),
                                  ("MEMORY.FEATURE", cfg.MEMORY.FEATURE, MEMORY_FEATURES)):  # fmt: skip
            if value not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, got {value!r}")
        method, limit = cfg.PSEUDO_LABELS.METHOD, cfg.MODEL.HEADS.MAX_CLUSTERS
        wanted: tuple[int, ...] = CLUSTERINGS.get(method).num_clusters_of(cfg)  # type: ignore[attr-defined]
        clusters = wanted or (limit,)
        if not (wanted or limit):
            raise ValueError(
                f"PSEUDO_LABELS.METHOD {method!r} finds the number of clusters by itself: set "
                "MODEL.HEADS.MAX_CLUSTERS to the largest that the classifier shall hold"
            )
        if limit and max(clusters, default=0) > limit:
            raise ValueError(
                f"PSEUDO_LABELS.NUM_CLUSTERS {clusters} does not fit into MODEL.HEADS.MAX_CLUSTERS {limit}; "
                "raise it, or set it to 0 for exactly NUM_CLUSTERS"
            )
        return {
            **cls.neck_config(cfg, in_channels),
            "capacities": (limit,) * len(clusters) if limit else clusters,
            "with_projection": bool(cfg.MEMORY.NAME) and cfg.MEMORY.FEATURE == "projection",
            "num_source": cfg.MODEL.HEADS.NUM_CLASSES if cfg.MODEL.HEADS.WITH_SOURCE else 0,
        }

    def forward(self, fmap: Tensor) -> HeadOutput:
        """Pool, normalise, classify and project.

        Args:
            fmap: [B, C, H, W].
        """
        features = self.pool_layer(fmap)
        embeddings = self.bottleneck(features)
        dropped = self.dropout(embeddings)
        projection = None if self.projection is None else self.projection(dropped)
        return HeadOutput(features, embeddings, self.classify(dropped), projection)

    def classify(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Logits of every classifier, also for stored features.

        Args:
            embeddings: [B, C].

        Returns:
            G tensors [B, S + active[g]]
        """
        return tuple(
            self.class_logits(embeddings, weight[: self.num_source + num])
            for weight, num in zip(self.classifiers, self.num_active, strict=True)
        )

    @torch.no_grad()
    def reset_classifier(
        self,
        group: int,
        num_clusters: int,
        centroids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Start the clusters' rows of one classifier again, in place.

        Args:
            group: which classifier.
            num_clusters: classes from now on.
            centroids: [num_clusters, C], rows become their unit vectors; None = N(0, 0.001^2).
            generator: CPU source of the random rows, the same in every process; None = torch's own.

        Raises:
            ValueError: more clusters than rows, or centroids of another shape.
        """
        weight = self.classifiers[group]
        capacity = len(weight) - self.num_source
        if not 1 <= num_clusters <= capacity:
            raise ValueError(
                f"MixtureLabelHead: classifier {group} has {capacity} rows and cannot hold {num_clusters} clusters; "
                "set MODEL.HEADS.MAX_CLUSTERS to the largest number that a clustering may give"
            )
        if centroids is None:
            rows = torch.randn(num_clusters, self.in_channels, generator=generator) * CLASSIFIER_STD
        else:
            rows = F.normalize(centroids.float())
            if rows.shape != (num_clusters, self.in_channels):
                raise ValueError(
                    f"MixtureLabelHead: centroids must be [{num_clusters}, {self.in_channels}], got {list(rows.shape)}"
                )
        weight[self.num_source : self.num_source + num_clusters] = rows.to(weight)
        self.active[group] = num_clusters
        self.num_active = (*self.num_active[:group], num_clusters, *self.num_active[group + 1 :])

    @torch.no_grad()
    def set_source_rows(self, centroids: Tensor) -> None:
        """Start the source identities' rows of every classifier from their mean features, in place.

        Args:
            centroids: [S, C]; rows become their unit vectors.
        """
        for weight in self.classifiers:
            weight[: self.num_source] = F.normalize(centroids.float()).to(weight)

    @torch.no_grad()
    def reset_projection(self, generator: torch.Generator | None = None) -> None:
        """Start the memory projection again, in place.

        Args:
            generator: CPU source of the random weights, the same in every process; None = torch's own.
        """
        for module in () if self.projection is None else self.projection.modules():
            if isinstance(module, nn.Linear):
                rows = torch.empty(module.weight.shape)
                module.weight.copy_(nn.init.kaiming_normal_(rows, mode="fan_out", generator=generator))
                nn.init.zeros_(module.bias)
            elif isinstance(module, _BatchNorm):
                module.reset_parameters()


def _read_active(head: MixtureLabelHead, _: Any) -> None:
    """After load_state_dict: a checkpoint of larger classifiers must not count rows that are not here."""
    capacities = torch.tensor([len(weight) - head.num_source for weight in head.classifiers])
    head.active.copy_(torch.minimum(head.active.cpu(), capacities))
    head.num_active = tuple(head.active.tolist())
