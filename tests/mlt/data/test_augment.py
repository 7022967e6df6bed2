"""Batched augmentation against torchvision's, image by image: the same pictures, as often, each from its own seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mlt.data.augment import ATTEMPTS, BatchTransform, erased_boxes, uniforms
from mlt.data.transforms import build_train_transform

SIZE = (32, 16)
TIMES = 3000
LEVEL = 1e-4  # a test with fixed seeds that fails is wrong by far
COLOUR = (250, 251, 252)


def seeds_of(count: int, first: int = 0) -> Tensor:
    """Neighbours, which a poor generator would make alike."""
    return torch.arange(first, first + count)


def coordinates(size: tuple[int, int] = SIZE) -> Tensor:
    """An image of which each pixel says where it comes from: red its line, green its column, counted from 1."""
    y, x = torch.meshgrid(torch.arange(1, size[0] + 1), torch.arange(1, size[1] + 1), indexing="ij")
    return torch.stack([y, x, torch.full_like(x, 7)]).to(torch.uint8)


def batched(size: tuple[int, int] = SIZE, times: int = TIMES, **options: object) -> Tensor:
    """Outcomes of the code under test, [times, 3, H, W]."""
    images = coordinates(size).expand(times, 3, *size)
    return BatchTransform(size, **options)(images, seeds_of(times))  # type: ignore[arg-type]


def one_by_one(size: tuple[int, int] = SIZE, times: int = TIMES, **options: object) -> Tensor:
    """Outcomes of torchvision."""
    change, image = build_train_transform(size, **options), coordinates(size)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.stack([change(image) for _ in range(times)])


def places(images: Tensor, padding: int) -> np.ndarray:
    """Flipped or not, and the crop's top and left, [times, 3]; read from a pixel that every crop shows."""
    middle = images[:, :2, images.shape[2] // 2, images.shape[3] // 2 - 1 : images.shape[3] // 2 + 1].long()
    flipped = middle[:, 1, 0] > middle[:, 1, 1]
    column = torch.where(flipped, images.shape[3] + 1 - middle[:, 1, 0], middle[:, 1, 0])
    top = middle[:, 0, 0] - 1 - images.shape[2] // 2 + padding
    left = column - images.shape[3] // 2 + padding
    return torch.stack([flipped.long(), top, left], dim=1).numpy()


def boxes(images: Tensor) -> np.ndarray:
    """Top, left, height, width of each erased rectangle, checked to be one; images without any are left out."""
    colour = torch.tensor(COLOUR, dtype=torch.uint8).view(3, 1, 1)
    erased = (images == colour).all(1)
    found = []
    for mask in erased[erased.flatten(1).any(1)]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = [int(rows[0]), int(columns[0]), len(rows), len(columns)]
        assert int(mask.sum()) == box[2] * box[3]
        found.append(box)
    return np.array(found)


def same_distribution(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Two samples of numbers come from one distribution."""
    assert stats.ks_2samp(ours, theirs).pvalue > LEVEL


# --- the numbers


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = uniforms(seeds_of(20_000), 8)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > LEVEL
    assert stats.kstest(numbers[0:4000:8].ravel(), "uniform").pvalue > LEVEL
    both = np.concatenate([numbers[:-1], numbers[1:], numbers[:-1, ::-1] * numbers[1:]], axis=1)
    correlation = np.corrcoef(both[:, :16].T)
    assert np.abs(correlation - np.eye(16)).max() < 5 / math.sqrt(len(both))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(1, 60))
def test_a_row_of_numbers_depends_on_its_seed_alone(seeds: list[int], count: int) -> None:
    numbers = uniforms(torch.tensor(seeds), count)
    assert numbers.shape == (len(seeds), count)
    for row, seed in zip(numbers, seeds):
        assert (uniforms(torch.tensor([seed]), 60)[0, :count] == row).all()


def test_numbers_stay_what_they_are() -> None:
    """A run that is resumed under a later version draws on: SplitMix64 as published, started at a scattered seed."""
    mask = 2**64 - 1

    def scatter(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    for seed in (0, 1, 2**32 - 1):
        state = scatter(seed)
        wanted = [(scatter((state + n * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53 for n in range(1, 5)]
        assert uniforms(torch.tensor([seed]), 4)[0].tolist() == wanted
    assert scatter(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of the published generator from 0


# --- a row and its seed


@pytest.fixture
def everything() -> BatchTransform:
    return BatchTransform(SIZE, padding=3, jitter=0.5, erase=0.5)


def test_a_row_is_decided_by_its_image_and_seed(everything: BatchTransform) -> None:
    images = torch.randint(0, 256, (12, 3, *SIZE), dtype=torch.uint8)
    seeds = torch.randint(2**32, (12,))
    out = everything(images, seeds)
    order = torch.randperm(12)
    assert torch.equal(everything(images[order], seeds[order]), out[order])
    assert torch.equal(everything(images[3:4], seeds[3:4])[0], out[3])
    assert not torch.equal(everything(images, seeds + 1), out)


def test_input_and_global_random_numbers_are_left_alone(everything: BatchTransform) -> None:
    images = torch.randint(0, 256, (12, 3, *SIZE), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    kept, before = images.clone(), torch.get_rng_state()
    out = everything(images, seeds_of(12))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), before)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(everything(images.contiguous(), seeds_of(12)), out)


def test_nothing_asked_for_changes_nothing() -> None:
    images = coordinates().expand(4, 3, *SIZE)
    assert torch.equal(BatchTransform(SIZE, flip=0, padding=0)(images, seeds_of(4)), images)


def test_devices_agree(everything: BatchTransform, device: torch.device) -> None:
    change = BatchTransform(SIZE, padding=3, erase=0.5)
    images = torch.randint(0, 256, (40, 3, *SIZE), dtype=torch.uint8)
    assert torch.equal(change(images.to(device), seeds_of(40)).cpu(), change(images, seeds_of(40)))
    assert everything(images.to(device), seeds_of(40)).device.type == device.type


# --- the same distribution as torchvision's


def test_flips_and_crops_are_those_of_torchvision() -> None:
    options = {"flip": 0.3, "padding": 3}
    ours, theirs = (places(found(**options), 3) for found in (batched, one_by_one))
    for column, values in ((0, 2), (1, 7), (2, 7)):
        counts = [np.bincount(sample[:, column], minlength=values) for sample in (ours, theirs)]
        assert (counts[0] > 0).all()
        assert stats.chi2_contingency(counts).pvalue > LEVEL
    assert stats.binomtest(int(ours[:, 0].sum()), TIMES, 0.3).pvalue > LEVEL
    together = np.bincount(ours @ [49, 7, 1], minlength=98)  # also independent of one another
    expected = np.repeat([0.7 / 49, 0.3 / 49], 49) * TIMES
    assert stats.chisquare(together, expected).pvalue > LEVEL


def test_every_pixel_is_where_flip_and_crop_put_it() -> None:
    images, padding = batched(padding=3, times=200), 3
    padded = torch.nn.functional.pad(torch.stack([coordinates(), coordinates().flip(2)]), [padding] * 4)
    for image, (flipped, top, left) in zip(images, places(images, padding)):
        assert torch.equal(image, padded[flipped, :, top : top + SIZE[0], left : left + SIZE[1]])


def test_a_crop_may_fall_beside_the_image() -> None:
    out = batched(padding=40, times=200)
    assert (out == 0).flatten(1).all(1).any()


def test_erased_rectangles_are_those_of_torchvision() -> None:
    options = {"flip": 0, "padding": 0, "erase": 0.4, "erase_value": COLOUR}
    ours, theirs = (boxes(found(**options, times=6000)) for found in (batched, one_by_one))
    assert stats.binomtest(len(ours), 6000, 0.4).pvalue > LEVEL
    (top, left, height, width), others = ours.T, theirs.T
    for column in range(4):
        same_distribution(ours[:, column], others[column])
    same_distribution(height * width, others[2] * others[3])
    same_distribution(height / width, others[2] / others[3])
    same_distribution(top / (SIZE[0] - height), others[0] / (SIZE[0] - others[2]))  # of the room that there is
    same_distribution(left / (SIZE[1] - width), others[1] / (SIZE[1] - others[3]))


def test_erasing_gives_up_as_often_as_torchvision() -> None:
    """In a thin image most rectangles are too wide, and sometimes all ten attempts are."""
    options = {"flip": 0, "padding": 0, "erase": 1, "erase_value": COLOUR}
    erased = [len(boxes(found((60, 4), **options))) for found in (batched, one_by_one)]
    assert 0.5 < erased[0] / TIMES < 0.99
    assert stats.chi2_contingency([[n, TIMES - n] for n in erased]).pvalue > LEVEL


def test_boxes_follow_the_rule_number_by_number() -> None:
    """The same numbers through the loop of RandomErasing."""
    size = (60, 5)
    numbers = uniforms(seeds_of(300), 4 * ATTEMPTS)
    for row, box in zip(numbers.reshape(-1, ATTEMPTS, 4), erased_boxes(numbers, size)):
        wanted = [0, 0, 0, 0]
        for area, aspect, top, left in row:
            pixels = size[0] * size[1] * (0.02 + area * (0.4 - 0.02))
            ratio = math.exp(math.log(0.3) + aspect * (math.log(3.33) - math.log(0.3)))
            height, width = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if height < size[0] and width < size[1]:
                wanted = [int(top * (size[0] - height + 1)), int(left * (size[1] - width + 1)), height, width]
                break
        assert box.tolist() == wanted


def test_erasing_is_last() -> None:
    strong = {"padding": 10, "jitter": 1, "jitter_strength": (0.9, 0.9, 0.9, 0.5)}
    out = batched(**strong, flip=1, erase=1, erase_value=COLOUR, times=50)
    assert (boxes(out)[:, 2:].prod(1) > 0.01 * SIZE[0] * SIZE[1]).all()


@pytest.mark.parametrize(
    "strength", [(0.5, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 0.9, 0), (0, 0, 0, 0.5), (0.3, 0.3, 0.3, 0.2)]
)
def test_jitter_is_that_of_torchvision(strength: tuple[float, ...]) -> None:
    options = {"flip": 0, "padding": 0, "jitter": 0.6, "jitter_strength": strength, "times": 1500}
    ours, theirs = (found(**options).double() for found in (batched, one_by_one))
    changed = [(out != coordinates()).flatten(1).any(1) for out in (ours, theirs)]
    counts = [int(row.sum()) for row in changed]
    assert stats.chi2_contingency([[n, 1500 - n] for n in counts]).pvalue > LEVEL
    for channel in range(3):
        same_distribution(ours[:, channel].mean((1, 2)).numpy(), theirs[:, channel].mean((1, 2)).numpy())
        same_distribution(ours[:, channel].std((1, 2)).numpy(), theirs[:, channel].std((1, 2)).numpy())
