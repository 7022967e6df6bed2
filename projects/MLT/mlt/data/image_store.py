"""Decoded images, each decoded once: in memory that a run's processes share, or in a file that a whole machine shares.

A file is named after what it holds, so a changed data set makes a new one. While it fills, an image's flag is set after
its pixels, and the name carries the machine's boot: who is killed leaves whole images for the next, and after a power
loss, when flags may have reached the disk without their pixels, nobody reads it. Once full it is written through to the
disk and renamed; later runs on any machine trust that name. Unused files may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import __version__, features
from torch import Tensor

from mlt.utils.files import atomic
from mlt.utils.log import log_once, warn_once
from mlt.utils.shared_memory import shared_map
from mlt.utils.transfer import send

logger = logging.getLogger(__name__)
EMPTY, WHOLE, BROKEN = 0, 1, 2  # flags of an image: not looked at yet, decoded, cannot be read
GREY = 128  # stands for an image that cannot be read
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux


def gigabytes(num_images: int, size: Sequence[int]) -> float:
    """What decoded images and their flags take, in 10^9 bytes.

    Args:
        num_images: how many.
        size: height and width.
    """
    return num_images * (3 * size[0] * size[1] + 1) / 1e9


def affordable(num_images: int, size: Sequence[int], cache_gb: float, used_gb: float = 0.0) -> bool:
    """Whether decoded images fit into a budget; says once when they do not.

    Args:
        num_images: how many.
        size: height and width.
        cache_gb: DATALOADER.CACHE_GB, in 10^9 bytes; 0 = none are to be kept.
        used_gb: what others take of it.
    """
    wanted = gigabytes(num_images, size)
    if 0 < cache_gb < used_gb + wanted:
        text = f"{num_images} images of {size[0]}x{size[1]} take {wanted:.3g} GB, DATALOADER.CACHE_GB is {cache_gb:g}"
        beside = f", of which others take {used_gb:.3g}" if used_gb else ""
        log_once(logger, f"{text}{beside}: none are kept, each is decoded whenever it is needed")
    return num_images > 0 and used_gb + wanted <= cache_gb


class ImageStore:
    """Pixels and a flag for each image of a set, one row for each path.

    Several processes may fill one store at once: at worst two decode the same image, to the same pixels.

    Args:
        paths: the images, in any order; a path that comes twice has one row.
        size: height and width that they are resized to.
        folder: where its file is, "" for memory: of the process group's processes on this machine, which must all make
            the same stores in the same order, and those forked from them. Where the file cannot be made, a warning says
            so, and memory of this process alone takes its place.

    Attributes:
        rows: path -> row.
        pixels: uint8 [N, 3, H, W], channels last in memory.
        flags: uint8 [N].
    """

    def __init__(self, paths: Sequence[str], size: Sequence[int], *, folder: str = "") -> None:
        self.size = (int(size[0]), int(size[1]))
        self.rows = {path: row for row, path in enumerate(sorted(set(paths)))}
        self._file = _StoreFile(folder, _fingerprint(self.rows, self.size)) if folder else None
        num_images, image_bytes = len(self.rows), 3 * self.size[0] * self.size[1]
        memory = self._map(max(1, num_images * (image_bytes + 1)))
        flat = torch.frombuffer(memory, dtype=torch.uint8)[: num_images * (image_bytes + 1)]
        pixels, self.flags = flat.split([num_images * image_bytes, num_images])
        self.pixels = pixels.view(num_images, *self.size, 3).permute(0, 3, 1, 2)
        self.flags[(self.flags == BROKEN).nonzero().flatten()] = EMPTY  # whoever comes anew looks again

    def _map(self, num_bytes: int) -> mmap.mmap:
        if self._file is None:
            return shared_map(num_bytes)
        try:
            return self._file.map(num_bytes)
        except OSError as error:
            text = f"DATALOADER.CACHE_DIR: no file of {num_bytes / 1e9:.3g} GB there: {error}"
            warn_once(logger, f"{text}; the decoded images stay in the memory of each process")
            self._file = None
            return mmap.mmap(-1, num_bytes)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("An ImageStore is shared by fork or by its file, never pickled")

    @property
    def full(self) -> bool:
        """Whether every image was looked at: gathering decodes none any more."""
        return bool(self.flags.all())

    @property
    def device(self) -> torch.device:
        """Where `gather` finds the pixels."""
        return self.pixels.device

    def put(self, row: int, image: Tensor | None) -> None:
        """Keep one image.

        Args:
            row: its row.
            image: uint8 [3, H, W]; None for one that cannot be read, which becomes grey.
        """
        self.pixels[row] = GREY if image is None else image
        self.flags[row] = BROKEN if image is None else WHOLE  # after the pixels: others may look at any time

    def gather(self, rows: Tensor) -> Tensor:
        """A copy of some images.

        Args:
            rows: int64 [B] on the CPU.

        Returns:
            uint8 [B, 3, H, W] on `device`, channels last in memory.
        """
        by_row = self.pixels.permute(0, 2, 3, 1)
        return by_row.index_select(0, send(rows, self.device)).permute(0, 3, 1, 2)

    def seal(self) -> None:
        """Give the file its final name if all images are in it; else, and without a file, do nothing."""
        if self._file is not None and bool((self.flags == WHOLE).all()):
            self._file.seal()

    def move_to(self, device: torch.device) -> None:
        """Gather from a copy of all pixels on a device from now on. Workers must not be forked after that.

        Args:
            device: e.g. a GPU.
        """
        if self.device.type != device.type:  # "cuda" is not equal to "cuda:0"
            self.pixels = self.pixels.to(device, copy=True)


class _StoreFile:
    """The file of a store: made by one process, shared by all of this machine, renamed when full."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = Path(folder), name
        boot = BOOT_ID.read_text().strip()[:8] if BOOT_ID.exists() else "unknown"
        self.part, self.sealed = (self.folder / f"{name}.{end}" for end in (f"{boot}.part", "u8"))
        self._memory: mmap.mmap | None = None

    def map(self, num_bytes: int) -> mmap.mmap:
        """The file's memory; the file is made when it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            path = self.sealed if _has_size(self.sealed, num_bytes) else self.part
            if not _has_size(path, num_bytes):
                self._remove_abandoned()
                _allocate(path, num_bytes)
            with path.open("r+b") as file:
                _lock(file.fileno(), shared=True)  # held as long as the map is, which keeps the file open
                self._memory = mmap.mmap(file.fileno(), num_bytes)
        return self._memory

    def seal(self) -> None:
        """Write the pixels through to the disk and rename the file."""
        with self._locked():
            if self._memory is not None and self.part.exists():
                self._memory.flush()
                os.replace(self.part, self.sealed)
                logger.info("all decoded images are in %s", self.sealed)
            self._memory = None  # nothing is left to be done

    def _remove_abandoned(self) -> None:
        """Files that were not full when their machine stopped."""
        for part in self.folder.glob(f"{self.name}.*.part"):
            with part.open("r+b") as file, contextlib.suppress(BlockingIOError):  # another machine fills it now
                _lock(file.fileno(), shared=False, wait=False)
                part.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process after another; the lock of one that is killed is free."""
        with (self.folder / "lock").open("w") as file:
            _lock(file.fileno(), shared=False)
            yield


def _lock(descriptor: int, *, shared: bool, wait: bool = True) -> None:
    import fcntl  # only here: Windows has none

    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.exists() and path.stat().st_size == num_bytes


def _allocate(path: Path, num_bytes: int) -> None:
    """A file of zeros with its room on the disk reserved: writing to a map when the disk is full kills the process."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)


def _fingerprint(rows: dict[str, int], size: tuple[int, int]) -> str:
    """Hash of what decides the pixels: files by path, size and time, and how `decode_image` makes pixels of them."""
    digest = hashlib.sha256(repr((size, "RGB, bicubic, EXIF", __version__, features.version("jpg"))).encode())
    for path in rows:
        try:
            stat = os.stat(path)
            known = (stat.st_size, stat.st_mtime_ns)
        except OSError:  # whoever loads it will say so, or skip it
            known = (0, 0)
        digest.update(repr((os.path.abspath(path), *known)).encode())
    return digest.hexdigest()[:16]
