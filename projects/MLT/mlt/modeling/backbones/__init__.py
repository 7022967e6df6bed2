"""Backbones: images -> feature map."""

from mlt.modeling.backbones.build import build_backbone
from mlt.modeling.backbones.resnet import ResNet

__all__ = ["ResNet", "build_backbone"]
