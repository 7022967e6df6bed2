"""Random changes: what each does to pixels, how often, and in which order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlt.config import get_cfg
from mlt.data.transforms import build_train_transform, train_transform

SIZE = (32, 16)
TIMES = 400


@pytest.fixture
def image() -> Tensor:
    return torch.randint(1, 256, (3, *SIZE), dtype=torch.uint8)  # no pixel is black


def test_nothing_asked_for_changes_nothing(image: Tensor) -> None:
    assert torch.equal(build_train_transform(SIZE, flip=0, padding=0)(image), image)


def test_flip(image: Tensor) -> None:
    flip = build_train_transform(SIZE, flip=0.3, padding=0)
    flipped = 0
    for _ in range(TIMES):
        out = flip(image)
        flipped += torch.equal(out, image.flip(-1))
        assert torch.equal(out, image) or torch.equal(out, image.flip(-1))
    assert 0.2 < flipped / TIMES < 0.4


def test_crop_moves_the_image_over_black(image: Tensor) -> None:
    crop = build_train_transform(SIZE, flip=0, padding=3)
    padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
    windows = {(y, x): padded[:, y : y + SIZE[0], x : x + SIZE[1]] for y in range(7) for x in range(7)}
    seen = set()
    for _ in range(TIMES):
        out = crop(image)
        seen |= {place for place, window in windows.items() if torch.equal(out, window)}
    assert len(seen) > 45  # all 49 places are equally likely


def test_erasing_fills_a_rectangle_with_the_colour(image: Tensor) -> None:
    colour = torch.tensor([152, 142, 127], dtype=torch.uint8).view(3, 1, 1)
    erase = build_train_transform(SIZE, flip=0, padding=0, erase=0.5)
    shares = []
    for _ in range(TIMES):
        out = erase(image)
        changed = (out != image).any(0)
        if changed.any():
            rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
            box = out[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (box == colour).all()
            shares.append(changed.float().mean().item())
    assert 0.4 < len(shares) / TIMES < 0.6
    assert min(shares) > 0.01
    assert max(shares) < 0.45
    assert 0.12 < sum(shares) / len(shares) < 0.28


def test_erasing_is_last(image: Tensor) -> None:
    """Its colour is neither jittered nor pushed out of the picture by the crop."""
    both = build_train_transform(
        SIZE, flip=1, padding=10, jitter=1, jitter_strength=(0.9, 0.9, 0.9, 0.5), erase=1, erase_value=(1, 2, 3)
    )
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)
    for _ in range(50):
        assert (both(image) == colour).all(0).float().mean() > 0.01


def test_jitter_keeps_type_and_happens_as_often_as_asked(image: Tensor) -> None:
    jitter = build_train_transform(SIZE, flip=0, padding=0, jitter=0.25)
    outs = [jitter(image) for _ in range(TIMES)]
    assert all(out.dtype == torch.uint8 and out.shape == image.shape for out in outs)
    assert 0.15 < sum(not torch.equal(out, image) for out in outs) / TIMES < 0.35


def test_input_is_left_alone(image: Tensor) -> None:
    before = image.clone()
    change = build_train_transform(SIZE, jitter=1, erase=1)
    for _ in range(20):
        change(image)
    assert torch.equal(image, before)


def test_from_config(image: Tensor) -> None:
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = list(SIZE)
    cfg.INPUT.FLIP.ENABLED = cfg.INPUT.PADDING.ENABLED = False
    cfg.INPUT.CJ.PROB = cfg.INPUT.REA.PROB = 1.0  # not enabled
    assert torch.equal(train_transform(cfg)(image), image)
    cfg.INPUT.REA.ENABLED = True
    cfg.INPUT.REA.VALUE = [0, 0, 0]
    assert (train_transform(cfg)(image) == 0).any()
    cfg.INPUT.REA.ENABLED = False
    cfg.INPUT.FLIP.ENABLED, cfg.INPUT.FLIP.PROB = True, 1.0
    assert torch.equal(train_transform(cfg)(image), image.flip(-1))
    cfg.INPUT.PADDING.ENABLED, cfg.INPUT.PADDING.SIZE = True, 40
    assert any((train_transform(cfg)(image) == 0).all() for _ in range(50))  # the crop fell beside the image
