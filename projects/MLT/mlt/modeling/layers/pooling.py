"""Feature map [B, C, H, W] -> feature [B, C], always at least float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlt.modeling.layers.precision import full_precision
from mlt.registry import unknown_name


class GlobalAvgPool(nn.Module):
    """Mean over all positions."""

    @full_precision
    def forward(self, fmap: Tensor) -> Tensor:
        """Pool.

        Args:
            fmap: [B, C, H, W].

        Returns:
            [B, C]
        """
        return fmap.mean(dim=(2, 3))


class GeneralizedMeanPoolingP(nn.Module):
    """GeM, (mean of max(x, eps)^p)^(1/p), with one learnable p for all channels.

    p = 1 is the mean, p -> infinity the maximum. Source: Radenovic et al., TPAMI 2019, eq. 3.

    Args:
        p: start value of the exponent, > 0.
        eps: smallest activation, > 0; keeps the logarithm in the gradient finite.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    @full_precision
    def forward(self, fmap: Tensor) -> Tensor:
        """Pool.

        Args:
            fmap: [B, C, H, W].

        Returns:
            [B, C], >= eps
        """
        return fmap.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1.0 / self.p)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"p={self.p.item():.2f}, eps={self.eps}"


POOL_LAYERS: dict[str, type[nn.Module]] = {
    "GeneralizedMeanPoolingP": GeneralizedMeanPoolingP,
    "GlobalAvgPool": GlobalAvgPool,
}


def build_pool_layer(name: str) -> nn.Module:
    """A new pooling layer.

    Args:
        name: a key of POOL_LAYERS, as in MODEL.HEADS.POOL_LAYER.

    Raises:
        KeyError: unknown name.
    """
    if name not in POOL_LAYERS:
        raise KeyError(unknown_name("pooling layer", name, list(POOL_LAYERS)))
    return POOL_LAYERS[name]()
