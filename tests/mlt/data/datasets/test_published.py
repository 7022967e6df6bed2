"""Published sizes: one for each registered set, and the same numbers in the table that readers see."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlt.data.datasets import PUBLISHED
from mlt.registry import DATASETS

README = Path(__file__).parents[4] / "projects/MLT/README.md"


def test_every_set_has_published_counts() -> None:
    assert set(PUBLISHED) == set(DATASETS)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_readme_has_the_same_numbers(name: str) -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if f"`{name}`" in line.split(" | ")[0]]
    size = PUBLISHED[name]
    assert f"{size.train.images:,} ({size.train.pids:,})" in row
    assert f"| {size.cameras or 'none'} |" in row
    for count in (size.query, size.gallery):
        assert count is None or f"{count.images:,}" in row
