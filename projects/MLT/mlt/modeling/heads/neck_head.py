"""What all heads share: pooling, BNNeck, and logits of a bias-free classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import build_pool_layer
from mlt.registry import HEADS

CLASSIFIER_STD = 0.001  # of new classifier rows; small rows start all classes at nearly equal logits
CLS_LAYERS = ("Linear", "CosSoftmax")


class HeadOutput(NamedTuple):
    """What a head returns, in training and evaluation alike.

    Args:
        features: f [B, C], pooled; triplets are mined on it.
        embeddings: b [B, C], after the BNNeck; unit-norm b is the retrieval feature.
        logits: one [B, K_g] for each classifier.
        projection: h [B, C] of the memory head, not normalised; None without one.
        auxiliary: of a second head on a shallower map; None without one.
    """

    features: Tensor
    embeddings: Tensor
    logits: tuple[Tensor, ...]
    projection: Tensor | None = None
    auxiliary: HeadOutput | None = None

    def behind(self, first: int) -> HeadOutput:
        """The output without its first rows.

        Args:
            first: how many to leave out: with the source rows of a batch, the target's stay.
        """
        projection = None if self.projection is None else self.projection[first:]
        auxiliary = None if self.auxiliary is None else self.auxiliary.behind(first)
        logits = tuple(z[first:] for z in self.logits)
        return HeadOutput(self.features[first:], self.embeddings[first:], logits, projection, auxiliary)


@HEADS.register()
class NeckHead(nn.Module):
    """Pooling and BNNeck (Luo et al., CVPRW 2019); subclasses add classifiers. Alone it serves methods whose memory
    is their classifier.

    Args:
        in_channels: channels C of the feature map.
        pool_layer: a key of POOL_LAYERS.
        cls_layer: "Linear", or "CosSoftmax": scale times the cosine.
        scale: factor of the cosine, > 0.
        dropout: probability before classifiers and projection, in [0, 1).
    """

    num_source = 0  # source identities that the classifiers hold as well
    num_active: tuple[int, ...] = ()  # clusters of each classifier

    @configurable
    def __init__(
        self,
        in_channels: int,
        pool_layer: str = "GeneralizedMeanPoolingP",
        cls_layer: str = "Linear",
        scale: float = 16.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cls_layer not in CLS_LAYERS:
            raise ValueError(f"MODEL.HEADS.CLS_LAYER must be one of {', '.join(CLS_LAYERS)}, got {cls_layer!r}")
        if scale <= 0:
            raise ValueError(f"MODEL.HEADS.SCALE must be > 0, got {scale}")
        if not 0 <= dropout < 1:
            raise ValueError(f"MODEL.HEADS.DROPOUT must be in [0, 1), got {dropout}")
        self.in_channels = in_channels
        self.cosine = cls_layer == "CosSoftmax"
        self.scale = scale
        self.pool_layer = build_pool_layer(pool_layer)
        neck = nn.BatchNorm1d(in_channels)
        neck.bias.requires_grad_(False)
        self.bottleneck = nn.Sequential(neck)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Constructor arguments from MODEL.HEADS.

        Args:
            cfg: the whole tree.
            in_channels: channels of the feature map.
        """
        return cls.neck_config(cfg, in_channels)

    @classmethod
    def neck_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """This class's constructor arguments from MODEL.HEADS.

        Args:
            cfg: the whole tree.
            in_channels: channels of the feature map.
        """
        node = cfg.MODEL.HEADS
        return {
            "in_channels": in_channels,
            "pool_layer": node.POOL_LAYER,
            "cls_layer": node.CLS_LAYER,
            "scale": node.SCALE,
            "dropout": node.DROPOUT,
        }

    def forward(self, fmap: Tensor) -> HeadOutput:
        """Pool and normalise.

        Args:
            fmap: [B, C, H, W].
        """
        features = self.pool_layer(fmap)
        return HeadOutput(features, self.bottleneck(features), ())

    def class_logits(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        """Logits of one classifier.

        Args:
            embeddings: [B, C].
            weight: [K, C], a row for each class.

        Returns:
            [B, K]
        """
        if self.cosine:
            return self.scale * F.linear(F.normalize(embeddings), F.normalize(weight))
        return F.linear(embeddings, weight)
