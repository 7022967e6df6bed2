"""Normalising, against the formula."""

from __future__ import annotations

import pytest
import torch

from mlt.modeling import pixels
from mlt.modeling.pixels import normalize_pixels

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 8)])
def test_the_bits_are_those_of_the_formula(
    layout: torch.memory_format, dtype: torch.dtype, size: tuple[int, int], device: torch.device
) -> None:
    images = torch.randint(0, 256, (3, 3, *size)).to(dtype).contiguous(memory_format=layout)
    kept = images.clone()
    out = normalize_pixels(images.to(device), MEAN.to(device), STD.to(device)).cpu()
    assert torch.equal(out, (images.float() - MEAN) / STD)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("at_once", [1, 2 * 3 * 16 * 8, 10**9])
def test_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setitem(pixels._NUMBERS_AT_ONCE, "cpu", at_once)
    for count in (0, 1, 5):
        images = torch.randint(0, 256, (count, 3, 16, 8), dtype=torch.uint8)
        assert torch.equal(normalize_pixels(images, MEAN, STD), (images.float() - MEAN) / STD)
