"""Heads: feature map -> HeadOutput."""

from mlt.modeling.heads.embedding_head import EmbeddingHead
from mlt.modeling.heads.mixture_label_head import MixtureLabelHead
from mlt.modeling.heads.neck_head import HeadOutput, NeckHead
from mlt.modeling.heads.two_depth_head import TwoDepthEmbeddingHead, TwoDepthMixtureHead

__all__ = [
    "EmbeddingHead",
    "HeadOutput",
    "MixtureLabelHead",
    "NeckHead",
    "TwoDepthEmbeddingHead",
    "TwoDepthMixtureHead",
]
