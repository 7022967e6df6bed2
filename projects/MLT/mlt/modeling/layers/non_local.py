"""Non-local block: each position adds a weighted sum over all positions."""

from __future__ import annotations

from torch import Tensor, nn


class NonLocal(nn.Module):
    """x + BN(conv(theta(x) . phi(x) / HW . g(x))): the dot-product form, without softmax.

    The last batch norm starts at zero, so that a new block is the identity. Associativity saves the
    [HW, HW] matrix: theta (phi g) in place of (theta phi) g. Source: Wang et al., CVPR 2018, eq. 4;
    parameter names of fast-reid's and UDAStrongBaseline's weights.

    Args:
        channels: channels C of the map.
        inner_channels: channels of theta, phi and g; 1 in the released weights.
    """

    def __init__(self, channels: int, inner_channels: int = 1) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, inner_channels, 1)
        self.phi = nn.Conv2d(channels, inner_channels, 1)
        self.g = nn.Conv2d(channels, inner_channels, 1)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(inner_channels, channels, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: [B, C, H, W].
        """
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))
        context = g @ phi.transpose(1, 2) / theta.shape[2]  # [B, C', C']
        return x + self.W((context @ theta).unflatten(2, x.shape[2:]))
