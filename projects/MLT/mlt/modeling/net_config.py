"""What a checkpoint says of its net: config keys stored with the weights, or read off their names and shapes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck
from yacs.config import CfgNode

from mlt.config import value_of, with_values
from mlt.config.config import read_yaml
from mlt.modeling.backbones.resnet import BLOCKS
from mlt.modeling.weights import identify, is_backbone_only, net_tensors, stem_of
from mlt.modeling.weights.peers import FASTREID

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
FASTREID_MEANS = ("GlobalAvgPool", "FastGlobalAvgPool")


def describe_net(cfg: CfgNode) -> dict[str, Any]:
    """What a checkpoint stores under "config": the keys NET_KEYS with their values.

    Args:
        cfg: the whole tree.
    """
    return {key: value_of(cfg, key) for key in NET_KEYS}


def net_config_of(content: Mapping[str, Any], path: str | os.PathLike[str] = "") -> dict[str, Any]:
    """Config keys with the values that a checkpoint's net needs.

    Taken from what our trainer stored; else from tensors (depth, width, IBN, non-local blocks, pooling) and from what
    is known of the toolbox (stem). A pooling without a tensor is taken for the mean; FastReID has others, which the
    config.yaml beside its checkpoint tells.

    Args:
        content: of a checkpoint.
        path: of the checkpoint, if it was a file.

    Raises:
        ValueError: not a state dict, its backbone is no ResNet that this project has, or it pools in another way.
    """
    stored = content.get("config")
    if isinstance(stored, Mapping):
        return dict(stored)
    found = {**_read_off(net_tensors(content)), **stem_of(content)}
    if identify(content) is FASTREID and found["MODEL.HEADS.POOL_LAYER"] == "GlobalAvgPool":
        _check_that_it_is_the_mean(Path(path))
    return found


def follow_weights(cfg: CfgNode, content: Mapping[str, Any], path: str | os.PathLike[str] = "") -> CfgNode:
    """The config with the stem and the pooling that re-ID weights were trained with; each change is logged.

    A bare backbone decides nothing: whoever trains from ImageNet weights may choose.

    Args:
        cfg: not changed.
        content: of the checkpoint that the config starts from.
        path: see `net_config_of`.

    Raises:
        ValueError: see `net_config_of`.
    """
    if is_backbone_only(content):
        return cfg
    wanted = net_config_of(content, path)
    changes = {key: wanted[key] for key in FOLLOWED if key in wanted and wanted[key] != value_of(cfg, key)}
    for key, value in changes.items():
        logger.warning("%s is %s, because the weights (names of %s) were trained so; the config had %s", key, value,
                       identify(content).name, value_of(cfg, key))  # fmt: skip
    return with_values(cfg, changes)


def _check_that_it_is_the_mean(path: Path) -> None:
    beside = path.with_name("config.yaml") if path.name else path
    heads = read_yaml(str(beside)).get("MODEL", {}).get("HEADS", {}) if beside.is_file() else {}
    if "POOL_LAYER" not in heads:
        logger.warning("no config.yaml beside %s tells how this FastReID net pools: the mean is assumed", path)
    elif heads["POOL_LAYER"] not in FASTREID_MEANS:
        raise ValueError(
            f"{path} pools by FastReID's {heads['POOL_LAYER']} (MODEL.HEADS.POOL_LAYER in {beside}), which this "
            f"project does not have; it has {', '.join(FASTREID_MEANS)} and GeneralizedMeanPoolingP"
        )


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
