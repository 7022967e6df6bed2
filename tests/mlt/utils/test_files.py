"""A file is complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlt.utils.files import atomic


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with atomic(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError, match="must be str"), atomic(path) as temporary:
        temporary.open("w").writelines(["half", 2])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
