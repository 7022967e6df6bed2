"""cfg -> backbone with its start weights."""

from __future__ import annotations

from torch import nn
from yacs.config import CfgNode

from mlt.registry import BACKBONES


def build_backbone(cfg: CfgNode) -> nn.Module:
    """The backbone that MODEL.BACKBONE names, with ImageNet weights if PRETRAIN asks for them.

    Args:
        cfg: the whole tree.

    Raises:
        KeyError: unknown MODEL.BACKBONE.NAME.
        ValueError: no such ImageNet weights exist.
    """
    backbone = BACKBONES.get(cfg.MODEL.BACKBONE.NAME)(cfg)
    if cfg.MODEL.BACKBONE.PRETRAIN:
        backbone.load_pretrained(cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    return backbone
