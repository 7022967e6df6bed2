"""What a checkpoint says of its net: config keys stored with the weights, or read off their names and shapes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck
from yacs.config import CfgNode

from mlt.config import value_of, with_values
from mlt.modeling.backbones.resnet import BLOCKS
from mlt.modeling.weights import identify, is_backbone_only, net_tensors, stem_of

logger = logging.getLogger(__name__)
NET_KEYS = (
    *(f"MODEL.BACKBONE.{key}" for key in ("NAME", "DEPTH", "WIDTH", "LAST_STRIDE", "WITH_IBN", "WITH_NL", "NL_CHANNELS",
                                          "STEM_RELU", "STEM_CEIL_POOL")),
    "MODEL.HEADS.POOL_LAYER",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "INPUT.SIZE_TEST",
)  # fmt: skip
# wrong values of these leave no trace but bad features, so weights that are known to need others have their way
FOLLOWED = ("MODEL.BACKBONE.STEM_RELU", "MODEL.BACKBONE.STEM_CEIL_POOL", "MODEL.HEADS.POOL_LAYER")


def describe_net(cfg: CfgNode) -> dict[str, Any]:
    """What a checkpoint stores under "config": the keys NET_KEYS with their values.

    Args:
        cfg: the whole tree.
    """
    return {key: value_of(cfg, key) for key in NET_KEYS}


def net_config_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Config keys with the values that a checkpoint's net needs.

    Taken from what our trainer stored; else from tensors (depth, width, IBN, non-local blocks, pooling) and from what
    is known of the toolbox (stem). A pooling without a tensor is taken for the mean.

    Args:
        content: of a checkpoint.

    Raises:
        ValueError: not a state dict, or its backbone is no ResNet that this project has.
    """
    stored = content.get("config")
    if isinstance(stored, Mapping):
        return dict(stored)
    return {**_read_off(net_tensors(content)), **stem_of(content)}


def follow_weights(cfg: CfgNode, content: Mapping[str, Any]) -> CfgNode:
    """The config with the stem and the pooling that re-ID weights were trained with; each change is logged.

    A bare backbone decides nothing: whoever trains from ImageNet weights may choose.

    Args:
        cfg: not changed.
        content: of the checkpoint that the config starts from.

    Raises:
        ValueError: see `net_config_of`.
    """
    if is_backbone_only(content):
        return cfg
    wanted = net_config_of(content)
    changes = {key: wanted[key] for key in FOLLOWED if key in wanted and wanted[key] != value_of(cfg, key)}
    for key, value in changes.items():
        logger.warning("%s is %s, because the weights (names of %s) were trained so; the config had %s", key, value,
                       identify(content).name, value_of(cfg, key))  # fmt: skip
    return with_values(cfg, changes)


def _read_off(net: Mapping[str, Tensor]) -> dict[str, Any]:
    backbone = {name.removeprefix("backbone."): value for name, value in net.items() if name.startswith("backbone.")}
    sizes = tuple(len({name.split(".")[1] for name in backbone if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    block = Bottleneck if any(".conv3." in name for name in backbone) else BasicBlock
    depth = next((depth for depth, known in BLOCKS.items() if known == (block, sizes)), None)
    if depth is None:
        raise ValueError(
            f"the weights' layers have {sizes} blocks of kind {block.__name__}, which is none of the ResNets "
            f"{', '.join(map(str, BLOCKS))}"
        )
    theta = backbone.get("NL_2.0.theta.weight")
    return {
        "MODEL.BACKBONE.DEPTH": f"{depth}x",
        "MODEL.BACKBONE.WIDTH": len(backbone["conv1.weight"]),
        "MODEL.BACKBONE.WITH_IBN": any(".bn1.IN." in name for name in backbone),
        "MODEL.BACKBONE.WITH_NL": theta is not None,
        "MODEL.BACKBONE.NL_CHANNELS": 1 if theta is None else len(theta),
        "MODEL.HEADS.POOL_LAYER": "GeneralizedMeanPoolingP" if "heads.pool_layer.p" in net else "GlobalAvgPool",
    }
