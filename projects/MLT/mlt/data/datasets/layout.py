"""Where a published set lies, and what to say when it is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Layout:
    """Names of a published set's folder and of what it holds.

    Args:
        name: of the set, as configs spell it.
        folders: where the set may lie below the root, in the order of search.
        parts: files and folders that it holds.
        about: where the set is described and how one gets it.
    """

    name: str
    folders: tuple[str, ...]
    parts: tuple[str, ...]
    about: str

    def find(self, root: str, direct: bool = False) -> str:
        """The folder that holds the parts.

        Args:
            root: folder of several sets.
            direct: `root` is this set's own folder.

        Raises:
            FileNotFoundError: no folder holds all parts.
        """
        return find_layout((self,), root, direct)[1]


def find_layout(layouts: Sequence[Layout], root: str, direct: bool = False) -> tuple[Layout, str]:
    """The first of several layouts of one set that is there, and its folder.

    Args:
        layouts: versions of one set.
        root: folder of several sets.
        direct: `root` is the set's own folder.

    Raises:
        FileNotFoundError: none is there; the message shows what was looked for, where, and how to get it.
    """
    looked = []
    for layout in layouts:
        for folder in ["."] if direct else layout.folders:
            path = os.path.normpath(os.path.join(root, folder))
            missing = [part for part in layout.parts if not os.path.exists(os.path.join(path, part))]
            if not missing:
                return layout, path
            why = f"lacks {', '.join(missing)}" if os.path.isdir(path) else "no such folder"
            looked.append(f"  {os.path.abspath(path)}: {why}")
    first = layouts[0]
    tree = "\n".join(f"  {'PATH' if direct else first.folders[0]}/{part}" for part in first.parts)
    remedy = (
        f"{first.name}@PATH reads a folder PATH that holds these parts itself."
        if direct
        else f"Set DATASETS.ROOT or FASTREID_DATASETS to what holds that folder, or write {first.name}@PATH."
    )
    raise FileNotFoundError(
        f"{first.name} is not there. Looked in\n" + "\n".join(looked) + f"\nExpected\n{tree}\n{remedy}\n{first.about}"
    )


def list_images(folder: str) -> list[str]:
    """Sorted paths of the image files right in a folder, without hidden ones.

    Args:
        folder: an existing folder.

    Raises:
        ValueError: there is none.
    """
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder) if is_image(name))
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def walk_images(folder: str) -> Iterator[str]:
    """Paths of the image files in a folder and all folders below, relative to it, with "/", without hidden ones.

    Args:
        folder: an existing folder. Links to folders are followed; each folder is read once.
    """
    seen = set()  # a link may lead back to a folder above it
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and real not in seen)
        if real in seen:
            continue
        seen.add(real)
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        yield from (name if below == "." else f"{below}/{name}" for name in names if is_image(name))


def is_image(name: str) -> bool:
    """Whether a file name is that of an image. macOS leaves hidden `._x.jpg` files in archives that are none.

    Args:
        name: file name without folder.
    """
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
