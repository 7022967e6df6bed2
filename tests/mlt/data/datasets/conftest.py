"""Tiny copies of published sets: readers look at names and lists only, so the pictures may be empty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mlt.structures import ReidRecord


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, dict[str, str]], Path]:
    """write(folder, {file: text}) makes the files below tmp_path / folder and returns that."""

    def make(folder: str, files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / folder

    return make


@pytest.fixture
def ids() -> Callable[[Iterable[ReidRecord]], list[tuple[str, int, int]]]:
    return lambda records: [(os.path.basename(r.path), r.pid, r.camid) for r in records]
