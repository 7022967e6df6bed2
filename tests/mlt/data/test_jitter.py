"""Jitter of many images at once against torchvision's functions, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mlt.data.jitter import jitter_

THEIRS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


@pytest.fixture
def images() -> Tensor:
    """Noise, grey noise, few levels (ties of the largest channel), and black and white."""
    noise = torch.randint(0, 256, (12, 3, 24, 16), dtype=torch.uint8)
    noise[3:6] = noise[3:6, :1]
    noise[6:9] = noise[6:9] // 64 * 85
    noise[9], noise[10] = 0, 255
    return noise.contiguous(memory_format=torch.channels_last)


def factors_of(count: int) -> np.ndarray:
    """Of brightness, contrast, saturation and hue, and their ends."""
    factors = np.random.default_rng(0).uniform([0, 0, 0, -0.5], [2, 2, 2, 0.5], (count, 4))
    factors[0], factors[1] = [0, 0, 0, -0.5], [2, 2, 2, 0.5]
    return factors


@pytest.mark.parametrize("change", range(4))
def test_each_change_is_torchvisions(images: Tensor, change: int) -> None:
    factors, out = factors_of(len(images)), images.clone()
    jitter_(out, np.arange(len(images)), np.full((len(images), 1), change), factors)
    wanted = torch.stack([THEIRS[change](*pair) for pair in zip(images, factors[:, change].tolist())])
    difference = (out.int() - wanted.int()).abs()
    assert difference.max() <= 1  # a product and a sum may be rounded once or twice before what is cut off
    assert (difference > 0).float().mean() < 0.01


def test_each_image_has_its_own_order(images: Tensor) -> None:
    rows, factors, out = np.array([7, 2, 0, 5]), factors_of(6)[2:], images.clone()
    order = np.array([[0, 1, 2], [2, 3, 0], [3, 2, 1], [1, 0, 3]])
    jitter_(out, rows, order, factors)
    for row, changes, factor in zip(rows.tolist(), order, factors):
        wanted = images[row]
        for change in changes:
            wanted = THEIRS[change](wanted, float(factor[change]))
        assert (out[row].int() - wanted.int()).abs().max() <= 4  # three roundings, and contrast at most doubles one
    others = np.setdiff1d(np.arange(12), rows)
    assert torch.equal(out[others], images[others])


def test_neither_rows_nor_changes_are_needed(images: Tensor) -> None:
    out = images.clone()
    jitter_(out, np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.int64), np.zeros((0, 4)))
    jitter_(out, np.arange(12), np.zeros((12, 0), dtype=np.int64), factors_of(12))
    assert torch.equal(out, images)


def test_devices_agree_up_to_rounding(images: Tensor, device: torch.device) -> None:
    rows, order, factors = np.arange(12), np.tile(np.arange(4), (12, 1)), factors_of(12)
    out = images.to(device)
    jitter_(out, rows, order, factors)
    jitter_(images, rows, order, factors)
    assert (out.cpu().int() - images.int()).abs().max() <= 4
