"""Colour jitter of many images at once, each by its own factors and in its own order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mlt.utils.transfer import send

TO_BYTES = 255.999 / 255  # before cutting off: torchvision's way from [0, 1] to bytes


def jitter_(images: Tensor, rows: NDArray[np.int64], order: NDArray[np.int64], factors: NDArray[np.float64]) -> None:
    """Brightness, contrast, saturation and hue as torchvision changes them up to rounding, in place.

    Images between the same two changes are changed by one operation, so that a batch takes 16 at most.

    Args:
        images: uint8 [B, 3, H, W].
        rows: [N] different images to change; the others stay as they are.
        order: [N, P] the changes of each one, first to last: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factors: [N, 4] of the changes: not negative, of hue in turns, -0.5..0.5.
    """
    for changes in order.T:
        for change in np.unique(changes):
            mine = changes == change
            some = send(torch.from_numpy(rows[mine]), images.device)
            factor = send(torch.from_numpy(factors[mine, change]).float().view(-1, 1, 1, 1), images.device)
            images[some] = CHANGES[change](images[some], factor).to(torch.uint8)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    # sums of whole numbers are exact in float64: no image's mean depends on how many are summed beside it
    mean = F.rgb_to_grayscale(images).mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()
    return _blend(images, mean, factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, F.rgb_to_grayscale(images), factor)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 255)


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Largest and smallest channel stay, and so HSV's value and saturation; the hue's place on its hexagon is moved."""
    pixels = images.float()
    low, high = pixels.aminmax(dim=1, keepdim=True)
    spread = high - low
    red_green_blue = torch.arange(3, device=images.device).view(3, 1, 1)
    hues = (pixels.roll(-1, 1) - pixels.roll(1, 1)) / spread.clamp(min=1) + 2 * red_green_blue  # if this one is largest
    hue = hues.gather(1, pixels.argmax(1, keepdim=True)) + 6 * factor  # 0..6, one for each edge of the hexagon
    place = (hue + 5 - 2 * red_green_blue).remainder_(6)
    return (high - spread * torch.minimum(place, 4 - place).clamp_(0, 1)).mul_(TO_BYTES)


CHANGES = (_brightness, _contrast, _saturation, _hue)
