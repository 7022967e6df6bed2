"""Files that are either complete or not there, and text that is UTF-8."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well and is removed when it does not.

    Args:
        path: file to write; its folder is made if missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Around what writes a file: an error of the disk gets the file's name (`named`).

    Args:
        path: file that is being written.
    """
    try:
        yield
    except OSError as error:
        raise named(error, path) from error


def named(error: OSError, path: str | Path) -> OSError:
    """The error with a file name: writing to a full disk raises one that has none.

    Args:
        error: what was raised.
        path: file that was being written.
    """
    bare = error.errno is not None and error.filename is None
    return OSError(error.errno, f"{error.strerror}, so the file is not written", str(path)) if bare else error


@contextlib.contextmanager
def open_text(path: str | Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file to read; a byte-order mark, which spreadsheets put first, is left out.

    Args:
        path: the file.
        newline: as `open` takes it.

    Raises:
        ValueError: it is not UTF-8.
    """
    with open(path, encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
