"""Our components by name in FastReID's registries, and its backbones in ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional
from yacs.config import CfgNode

import mlt.components  # noqa: F401  fills our registries
from mlt.adapters.fastreid.data import register_known_datasets
from mlt.config import with_values
from mlt.modeling.heads import MixtureLabelHead
from mlt.modeling.net_config import describe_net
from mlt.registry import BACKBONES, HEADS, META_ARCHS

RESNET = "build_resnet_backbone"
RESNET_KEYS = {  # our ResNet is FastReID's with these values
    "MODEL.BACKBONE.NAME": "ResNet",
    "MODEL.BACKBONE.WIDTH": 64,
    "MODEL.BACKBONE.NL_CHANNELS": 1,
    "MODEL.BACKBONE.STEM_RELU": True,
    "MODEL.BACKBONE.STEM_CEIL_POOL": True,
}


def register_components() -> None:
    """Fill the registries; what is there already stays."""
    for name in META_ARCHS:
        if name not in META_ARCH_REGISTRY._obj_map:  # "Baseline" is FastReID's
            META_ARCH_REGISTRY.register(META_ARCHS.get(name))
    if "MixtureLabelHead" not in REID_HEADS_REGISTRY._obj_map:
        REID_HEADS_REGISTRY._do_register("MixtureLabelHead", FastReIDHead)
    for name in HEADS:
        if name not in REID_HEADS_REGISTRY._obj_map:  # "EmbeddingHead" is FastReID's
            REID_HEADS_REGISTRY._do_register(name, _head(name))
    for name in BACKBONE_REGISTRY._obj_map:
        if name not in BACKBONES:
            BACKBONES.register(name)(_adopted(name))
    register_known_datasets()


class FastReIDHead(MixtureLabelHead):
    """MixtureLabelHead as the head of FastReID's own meta-architectures, which know one label for each image.

    Our meta-architectures take MixtureLabelHead itself.

    Args:
        cfg: the whole tree.

    Raises:
        ValueError: several clusterings, or a projection that nothing would train.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg, cfg.MODEL.BACKBONE.FEAT_DIM)
        if len(self.classifiers) > 1 or self.projection is not None:
            raise ValueError(
                "In FastReID's meta-architectures MixtureLabelHead takes one number in PSEUDO_LABELS.NUM_CLUSTERS and "
                f"MEMORY.NAME ''; got {tuple(cfg.PSEUDO_LABELS.NUM_CLUSTERS)} and {cfg.MEMORY.NAME!r}"
            )

    def forward(self, fmap: Tensor, targets: Tensor | None = None) -> Any:
        """Embeddings b [B, C] in evaluation, the dict of FastReID's heads in training.

        Args:
            fmap: [B, C, H, W].
            targets: not read: there is no margin.
        """
        out = super().forward(fmap)
        if not self.training:
            return out.embeddings
        return {"cls_outputs": out.logits[0], "pred_class_logits": out.logits[0].detach(), "features": out.features}


def _head(name: str) -> Callable[[CfgNode], nn.Module]:
    """One of our heads by FastReID's build_heads, for meta-architectures that read a HeadOutput."""

    def head(cfg: CfgNode) -> nn.Module:
        who = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        if who.__module__.startswith("fastreid."):
            raise ValueError(
                f"FastReID's {who.__name__} reads the logits of one classifier, which MODEL.HEADS.NAME {name} does not "
                "give: take MixtureLabelHead, or one of the meta-architectures that mlt.adapters.fastreid registers"
            )
        return HEADS.get(name)(cfg, cfg.MODEL.BACKBONE.FEAT_DIM)

    return head


def _adopted(name: str) -> Callable[[CfgNode], nn.Module]:
    """One of FastReID's backbones, as our meta-architectures want them."""

    def backbone(cfg: CfgNode) -> nn.Module:
        if cfg.MODEL.BACKBONE.NORM == "SyncBN":  # FastReID has no such name; the meta-architecture converts
            cfg = with_values(cfg, {"MODEL.BACKBONE.NORM": "BN"})
        net = BACKBONE_REGISTRY.get(name)(cfg)
        for module in net.modules():
            if type(module) is nn.Conv2d and _EveryOtherPixel.replaces(module):
                module.__class__ = _EveryOtherPixel
        net.out_channels = cfg.MODEL.BACKBONE.FEAT_DIM
        net.load_pretrained = _keep
        if name == RESNET:
            net.stem_relu, net.stem_ceil_pool = True, True
        return net

    return backbone


class _EveryOtherPixel(nn.Conv2d):
    """A 1 x 1 convolution with a stride on three channels, as RepVGG begins: on a CPU its backward pass writes outside
    its memory where images or weights are channels last, as ours are (torch 2.14.1). Without a stride it does not."""

    @staticmethod
    def replaces(conv: nn.Conv2d) -> bool:
        """Whether it is such a convolution."""
        return conv.in_channels == 3 and conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding == (0, 0)

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = self.stride
        return functional.conv2d(images[..., ::rows, ::columns], self.weight, self.bias)


def _keep(_path: str) -> None:
    """FastReID's builders have loaded ImageNet weights themselves."""


class NetConfig:
    """What `mlt.load_model` has to know of a net, as a part of FastReID's checkpoints.

    Args:
        cfg: the run's config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def state_dict(self) -> dict[str, Any]:
        """Config keys with their values."""
        return {**describe_net(self.cfg), **(RESNET_KEYS if self.cfg.MODEL.BACKBONE.NAME == RESNET else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A resumed run has its own config.

        Args:
            state: not read.
        """
