"""A ResNet that also shows what layer3 sees, for methods that compare two depths of a net."""

from __future__ import annotations

from torch import Tensor

from mlt.modeling.backbones.resnet import ResNet
from mlt.registry import BACKBONES


@BACKBONES.register()
class TwoDepthResNet(ResNet):
    """ResNet whose result is the maps of layer4 and of layer3. Source: Zheng et al., AAAI 2021 (UNRN)."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images to two feature maps.

        Args:
            images: float [B, 3, H, W], normalised.

        Returns:
            [B, out_channels, h, w] of layer4, [B, out_channels / 2, H/16, W/16] of layer3
        """
        shallow = self.shallow(images)
        return self.layer4(shallow), shallow
