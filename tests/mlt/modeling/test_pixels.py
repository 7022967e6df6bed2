"""Normalising, against the formula."""

from __future__ import annotations

import pytest
import torch

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
