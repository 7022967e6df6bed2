"""A file is complete or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mlt.utils.files import atomic, open_text


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


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=r"No space left on device, so the file is not written: .*a\.txt"), atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"), atomic(path):
        (tmp_path / "gone.jpg").read_bytes()
    with pytest.raises(OSError, match=r"^cannot identify image$"), atomic(path):
        raise OSError("cannot identify image")


def test_text_comes_without_a_byte_order_mark_and_names_the_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("é\n", encoding="utf-8-sig")
    with open_text(path) as file:
        assert file.read() == "é\n"
    path.write_bytes(b"\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text: .*; save it as UTF-8"), open_text(path) as file:
        file.read()
