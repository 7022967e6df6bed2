"""Seeding and the state of the random number generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mlt.utils.checkpoint import load_checkpoint, save_checkpoint
from mlt.utils.seed import rng_state, seed_everything, set_rng_state


@pytest.fixture(autouse=True)
def _generators_as_before() -> Iterator[None]:
    state = rng_state()
    yield
    set_rng_state(state)


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(1))]  # noqa: NPY002


def test_seed_decides_all_draws() -> None:
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    seed_everything(5)
    draw()  # leaves a second Gauss value waiting in both Python's and numpy's generator
    save_checkpoint({"rng": rng_state()}, tmp_path / "rng.pth")
    expected = draw()
    seed_everything(6)
    set_rng_state(load_checkpoint(tmp_path / "rng.pth")["rng"])
    assert draw() == expected


def test_large_and_negative_seeds() -> None:
    seed_everything(2**40)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=rf"SEED must be >= 0 and below 2\^63, got {seed}"):
            seed_everything(seed)
