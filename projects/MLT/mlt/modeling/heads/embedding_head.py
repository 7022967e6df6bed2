"""Head with one classifier: supervised training and Stage I."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads.neck_head import CLASSIFIER_STD, HeadOutput, NeckHead
from mlt.registry import HEADS


@HEADS.register()
class EmbeddingHead(NeckHead):
    """Pooling, BNNeck and one bias-free classifier.

    Args:
        in_channels: channels C of the feature map.
        num_classes: identities K, >= 1.
        pool_layer: a key of POOL_LAYERS.
        cls_layer: "Linear", or "CosSoftmax": scale times the cosine.
        scale: factor of the cosine, > 0.
        dropout: probability before the classifier, in [0, 1).
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        pool_layer: str = "GeneralizedMeanPoolingP",
        cls_layer: str = "Linear",
        scale: float = 16.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, pool_layer, cls_layer, scale, dropout)
        if num_classes < 1:
            raise ValueError(
                f"EmbeddingHead needs at least one class, got {num_classes}. MODEL.HEADS.NUM_CLASSES is counted in "
                "DATASETS.NAMES when it is 0; without a source set give it."
            )
        self.weight = nn.Parameter(torch.randn(num_classes, in_channels) * CLASSIFIER_STD)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Constructor arguments from MODEL.HEADS.

        Args:
            cfg: the whole tree.
            in_channels: channels of the feature map.
        """
        return {**cls.neck_config(cfg, in_channels), "num_classes": cfg.MODEL.HEADS.NUM_CLASSES}

    def forward(self, fmap: Tensor) -> HeadOutput:
        """Pool, normalise and classify.

        Args:
            fmap: [B, C, H, W].
        """
        features = self.pool_layer(fmap)
        embeddings = self.bottleneck(features)
        return HeadOutput(features, embeddings, (self.class_logits(self.dropout(embeddings), self.weight),))
