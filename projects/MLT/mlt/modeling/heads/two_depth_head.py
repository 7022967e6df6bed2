"""Heads with a second, shallow head on the map of layer3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mlt.config import configurable
from mlt.modeling.heads.embedding_head import EmbeddingHead
from mlt.modeling.heads.mixture_label_head import MixtureLabelHead
from mlt.modeling.heads.neck_head import HeadOutput
from mlt.registry import HEADS


class _TwoDepths(nn.Module):
    """Puts the output of `self.shallow` beside that of the head it is mixed into; both pool with the same exponent."""

    kind: Any  # class of both heads
    shallow_options: dict[str, Any] = {}  # noqa: RUF012

    @configurable
    def __init__(self, in_channels: int, **options: Any) -> None:
        super().__init__(in_channels, **options)
        self.shallow = self.kind(in_channels // 2, **options | self.shallow_options)
        self.shallow.pool_layer = self.pool_layer

    def forward(self, fmap: Any) -> HeadOutput:
        """Both heads.

        Args:
            fmap: both maps, as TwoDepthResNet returns them.
        """
        deep, shallow = fmap
        return super().forward(deep)._replace(auxiliary=self.shallow(shallow))


@HEADS.register()
class TwoDepthEmbeddingHead(_TwoDepths, EmbeddingHead):
    """EmbeddingHead on layer4, of C channels, and another one on layer3, of C / 2, with the same options.
    Source: Zheng et al., AAAI 2021 (UNRN, Stage I)."""

    kind = EmbeddingHead


@HEADS.register()
class TwoDepthMixtureHead(_TwoDepths, MixtureLabelHead):
    """MixtureLabelHead on layer4, of C channels, and another one on layer3, of C / 2, with the same options; only the
    deep one has a projection. Source: Zheng et al., AAAI 2021 (UNRN, Stage II)."""

    kind = MixtureLabelHead
    shallow_options = {"with_projection": False}  # noqa: RUF012

    def reset_classifier(
        self,
        group: int,
        num_clusters: int,
        centroids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Start the clusters' rows of one classifier again at both depths; the shallow one's are always random.

        Args:
            group: see MixtureLabelHead.reset_classifier.
            num_clusters: see there.
            centroids: see there; for the deep classifier.
            generator: see there.
        """
        super().reset_classifier(group, num_clusters, centroids, generator)
        self.shallow.reset_classifier(group, num_clusters, None, generator)
