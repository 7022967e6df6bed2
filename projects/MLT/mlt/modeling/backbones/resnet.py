"""ResNet for re-ID: torchvision's blocks and parameter names, no average pool, no classifier."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.layers import IBN, NonLocal
from mlt.modeling.weights import LoadReport, load_weights
from mlt.registry import BACKBONES

BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
IMAGENET_WIDTH = 64


@BACKBONES.register()
class ResNet(nn.Module):
    """Residual network up to layer4. Source: He et al., CVPR 2016; last stride: Luo et al., CVPRW 2019.

    Args:
        depth: 10, 18, 34, 50 or 101.
        width: channels of the stem and of layer1's blocks, >= 8.
        last_stride: stride of layer4, 1 or 2.
        with_ibn: IBN-a in layer1-3.
        nl_channels: inner channels of the non-local blocks after the last 2 blocks of layer2 and the last 3 of
            layer3 (or all of them where there are fewer); 0 = no such blocks.
        stem_relu: ReLU after the stem's batch norm.
        stem_ceil_pool: stem max-pool with padding 0 and ceil mode (fast-reid) in place of padding 1.
    """

    @configurable
    def __init__(
        self,
        depth: int = 50,
        width: int = IMAGENET_WIDTH,
        last_stride: int = 1,
        with_ibn: bool = False,
        nl_channels: int = 0,
        stem_relu: bool = True,
        stem_ceil_pool: bool = False,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet: depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
        if width < 8:
            raise ValueError(f"ResNet: width must be >= 8, got {width}")
        if last_stride not in (1, 2):
            raise ValueError(f"ResNet: last_stride must be 1 or 2, got {last_stride}")
        self.depth, self.width, self.with_ibn = depth, width, with_ibn
        self.stem_relu, self.stem_ceil_pool = stem_relu, stem_ceil_pool
        block, sizes = BLOCKS[depth]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True) if stem_relu else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if stem_ceil_pool else 1, ceil_mode=stem_ceil_pool)
        layer = partial(_make_layer, block)
        self.layer1 = layer(width, width, sizes[0], stride=1, with_ibn=with_ibn)
        self.layer2 = layer(width * block.expansion, width * 2, sizes[1], stride=2, with_ibn=with_ibn)
        self.layer3 = layer(width * block.expansion * 2, width * 4, sizes[2], stride=2, with_ibn=with_ibn)
        self.layer4 = layer(width * block.expansion * 4, width * 8, sizes[3], stride=last_stride, with_ibn=False)
        self.out_channels = width * 8 * block.expansion
        num_2, num_3 = (min(2, sizes[1]), min(3, sizes[2])) if nl_channels else (0, 0)
        self.NL_2 = nn.ModuleList(NonLocal(width * 2 * block.expansion, nl_channels) for _ in range(num_2))
        self.NL_3 = nn.ModuleList(NonLocal(width * 4 * block.expansion, nl_channels) for _ in range(num_3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.BACKBONE.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: a depth that is not spelt like "50x".
        """
        node = cfg.MODEL.BACKBONE
        depth = node.DEPTH.removesuffix("x")
        if not depth.isdecimal():
            known = ", ".join(f"{depth}x" for depth in BLOCKS)
            raise ValueError(f"MODEL.BACKBONE.DEPTH must be one of {known}, got {node.DEPTH!r}")
        return {
            "depth": int(depth),
            "width": node.WIDTH,
            "last_stride": node.LAST_STRIDE,
            "with_ibn": node.WITH_IBN,
            "nl_channels": node.NL_CHANNELS if node.WITH_NL else 0,
            "stem_relu": node.STEM_RELU,
            "stem_ceil_pool": node.STEM_CEIL_POOL,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Images to the feature map of layer4.

        Args:
            images: float [B, 3, H, W], normalised.

        Returns:
            [B, out_channels, H/16, W/16] with last_stride 1, half of it with 2.
        """
        return self.layer4(self.shallow(images))

    def shallow(self, images: Tensor) -> Tensor:
        """Images to the feature map of layer3.

        Args:
            images: float [B, 3, H, W], normalised.

        Returns:
            [B, out_channels / 2, H/16, W/16]
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer1(x)
        x = _run_layer(self.layer2, self.NL_2, x)
        return _run_layer(self.layer3, self.NL_3, x)

    def load_pretrained(self, path: str = "") -> LoadReport:
        """Load ImageNet weights.

        Args:
            path: a file that `load_weights` reads; "" = torchvision's own weights (depths from 18, width 64, no
                IBN), which are downloaded into torch's cache once.

        Raises:
            ValueError: there are no torchvision weights for this network.
            OSError: the download failed.
        """
        if path:
            return load_weights(self, path)
        remedy = "Set MODEL.BACKBONE.PRETRAIN_PATH to a local state dict, or MODEL.BACKBONE.PRETRAIN False."
        if self.depth < 18 or self.width != IMAGENET_WIDTH or self.with_ibn:
            kind = f"depth {self.depth}, width {self.width}{', IBN-a' if self.with_ibn else ''}"
            raise ValueError(f"torchvision has no ImageNet weights for this ResNet ({kind}). {remedy}")
        weights = get_model_weights(f"resnet{self.depth}").IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:  # URLError is one
            raise OSError(f"Cannot download ImageNet weights from {weights.url}: {error}. {remedy}") from error
        return load_weights(self, state)


def _make_layer(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    num_blocks: int,
    *,
    stride: int,
    with_ibn: bool,
) -> nn.Sequential:
    out_channels = channels * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    blocks = [block(in_channels, channels, stride, shortcut)]
    blocks += [block(out_channels, channels) for _ in range(1, num_blocks)]
    if with_ibn:
        for item in blocks:
            item.bn1 = IBN(channels)
    return nn.Sequential(*blocks)


def _run_layer(layer: nn.Sequential, non_local: nn.ModuleList, x: Tensor) -> Tensor:
    first = len(layer) - len(non_local)
    for i, block in enumerate(layer):
        x = block(x)
        if i >= first:
            x = non_local[i - first](x)
    return x
