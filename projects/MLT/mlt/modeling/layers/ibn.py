"""Instance-batch norm "a": half of the channels by image, half by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    Source: Pan et al., ECCV 2018 (IBN-a), with the parameter names of the published weights.

    Args:
        num_features: channels C.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(num_features // 2, affine=True)
        self.BN = nn.BatchNorm2d(num_features - num_features // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: [B, C, H, W].
        """
        half = x.shape[1] // 2
        return torch.cat([self.IN(x[:, :half]), self.BN(x[:, half:])], dim=1)
