"""Small pictures on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlt.structures import ReidRecord


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = (16, 8)) -> str:
    """A random picture of height and width `size`; lossless where the suffix allows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def picture() -> Callable[..., str]:
    return save_picture


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReidRecord, ...]:
    """12 identities with 2-5 pictures each from 3 cameras."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for pid in range(12):
        for shot in range(2 + pid % 4):
            path = save_picture(folder / f"{pid:02d}_{shot}.png", seed=100 * pid + shot)
            found.append(ReidRecord(path, pid, (pid + shot) % 3))
    return tuple(found)
