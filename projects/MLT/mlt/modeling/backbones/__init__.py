"""Backbones: images -> feature map."""

from mlt.modeling.backbones.build import build_backbone
from mlt.modeling.backbones.resnet import ResNet
from mlt.modeling.backbones.two_depth_resnet import TwoDepthResNet

__all__ = ["ResNet", "TwoDepthResNet", "build_backbone"]
