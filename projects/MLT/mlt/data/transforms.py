"""Random changes of a training image: uint8 [3,H,W] in, uint8 [3,H,W] out. Test images are only resized."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor
from torchvision.transforms import v2
from yacs.config import CfgNode

from mlt.config import value_of

Transform = Callable[[Tensor], Tensor]
ERASE_AREA = (0.02, 0.4)  # share of the image (Zhong et al., AAAI 2020)
ERASE_ASPECT = (0.3, 3.33)
SECOND_VIEW = 0x9E3779B9
Seed = TypeVar("Seed", int, Tensor)


def second_seed(seed: Seed) -> Seed:
    """The seed of the second view of a draw: another random change of the same image.

    Args:
        seed: of the first view, 0 <= seed < 2**32.
    """
    return (seed + SECOND_VIEW) % 2**32


def build_train_transform(
    size: Sequence[int],
    *,
    flip: float = 0.5,
    padding: int = 10,
    jitter: float = 0.0,
    jitter_strength: Sequence[float] = (0.15, 0.15, 0.1, 0.1),
    erase: float = 0.0,
    erase_value: Sequence[float] = (152, 142, 127),
) -> Transform:
    """Flip, pad and crop, colour jitter, random erasing: each one that is asked for, in this order.

    Erasing is the last of all but works on pixels, before the model normalises: a published fill constant c of
    normalised images is `(c * std + mean)` here.

    Args:
        size: height and width of the image.
        flip: probability of a horizontal flip.
        padding: black pixels added on each side before a random crop to `size`; 0 = no crop.
        jitter: probability of colour jitter.
        jitter_strength: brightness, contrast, saturation and hue as in torchvision's ColorJitter.
        erase: probability of erasing a rectangle.
        erase_value: red, green and blue of that rectangle in 0..255.
    """
    steps: list[v2.Transform] = []
    if flip > 0:
        steps.append(v2.RandomHorizontalFlip(flip))
    if padding > 0:
        steps.append(v2.RandomCrop(list(size), padding=padding))
    if jitter > 0:
        steps.append(v2.RandomApply([v2.ColorJitter(*jitter_strength)], jitter))
    if erase > 0:
        steps.append(v2.RandomErasing(erase, ERASE_AREA, ERASE_ASPECT, [float(v) for v in erase_value]))
    return v2.Compose(steps) if steps else v2.Identity()


def train_transform(cfg: CfgNode) -> Transform:
    """`build_train_transform` with the values of INPUT.

    Args:
        cfg: a tree with INPUT.
    """
    return build_train_transform(**transform_options(cfg))


def transform_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of `build_train_transform`, and of `BatchTransform`, from INPUT.

    Args:
        cfg: a tree with INPUT.

    Raises:
        ValueError: a number out of range.
    """
    inputs = cfg.INPUT
    cj = inputs.CJ
    limits = {"FLIP.PROB": 1, "CJ.PROB": 1, "REA.PROB": 1, "CJ.HUE": 0.5, "PADDING.SIZE": math.inf}
    limits |= {f"CJ.{name}": math.inf for name in ("BRIGHTNESS", "CONTRAST", "SATURATION")}
    for key, most in limits.items():
        if not 0 <= (value := value_of(inputs, key)) <= most:
            raise ValueError(f"INPUT.{key} must be between 0 and {most}, got {value}")
    if len(inputs.REA.VALUE) != 3 or not 0 <= min(inputs.REA.VALUE) <= max(inputs.REA.VALUE) <= 255:
        raise ValueError(f"INPUT.REA.VALUE must be red, green and blue in 0..255, got {inputs.REA.VALUE}")
    return {
        "size": inputs.SIZE_TRAIN,
        "flip": inputs.FLIP.PROB if inputs.FLIP.ENABLED else 0.0,
        "padding": inputs.PADDING.SIZE if inputs.PADDING.ENABLED else 0,
        "jitter": cj.PROB if cj.ENABLED else 0.0,
        "jitter_strength": (cj.BRIGHTNESS, cj.CONTRAST, cj.SATURATION, cj.HUE),
        "erase": inputs.REA.PROB if inputs.REA.ENABLED else 0.0,
        "erase_value": inputs.REA.VALUE,
    }
