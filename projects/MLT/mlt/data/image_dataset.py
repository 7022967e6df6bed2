"""Records to pixels: decode and resize once, transform under the draw's own seed."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from mlt.data.samplers import Draw
from mlt.data.transforms import Transform
from mlt.structures import Batch, ReidRecord

logger = logging.getLogger(__name__)
GREY = 128  # stands for an image that cannot be read
SECOND_VIEW = 0x9E3779B9  # added to a draw's seed, modulo 2**32: another random change of the same image


def decode_image(path: str, size: Sequence[int]) -> Tensor:
    """Read an image file as it is meant to be seen, in RGB, bicubically resized (with antialiasing).

    Args:
        path: any file that Pillow reads.
        size: height and width of the result.

    Returns:
        uint8 [3, height, width].
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    return F.pil_to_tensor(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


class ImageDataset(Dataset[Tensor]):
    """The images of some records. It knows no labels: whoever has a batch's indices looks them up.

    The cache is memory shared with forked workers: each image is decoded once, by whoever needs it first, as long as
    there is room. A spawned worker works without it.

    Args:
        records: what to read.
        size: height and width of all images.
        transform: random change of an image, uint8 [3,H,W] to the same; it may use torch's global CPU generator only.
        on_bad_image: "error" stops at an image that cannot be read; "skip" gives a grey one and says so in "valid".
        cache_gb: memory for decoded images in GB (10^9 bytes).
        num_views: 2 adds a second random change of every image to a batch, as "views".

    Raises:
        ValueError: on_bad_image is something else.
    """

    def __init__(
        self,
        records: Sequence[ReidRecord],
        *,
        size: Sequence[int],
        transform: Transform | None = None,
        on_bad_image: str = "error",
        cache_gb: float = 0.0,
        num_views: int = 1,
    ) -> None:
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"DATALOADER.ON_BAD_IMAGE must be 'error' or 'skip', got {on_bad_image!r}")
        self.paths = [record.path for record in records]
        self.camids = torch.tensor([record.camid for record in records], dtype=torch.int64)
        self.size = (int(size[0]), int(size[1]))
        self.transform = transform
        self.on_bad_image = on_bad_image
        self.num_views = num_views
        self._cache, self._filled = self._allocate(cache_gb)

    def _allocate(self, cache_gb: float) -> tuple[Tensor, Tensor]:
        """Pixels and flags of the first images, as many as there is room for."""
        image_bytes = 3 * self.size[0] * self.size[1]
        room = min(len(self.paths), int(cache_gb * 1e9 / image_bytes))
        if 0 < room < len(self.paths):
            logger.info("DATALOADER.CACHE_GB %g holds %d of %d images", cache_gb, room, len(self.paths))
        # an anonymous map is shared by fork like a file in /dev/shm, without the small limit that containers set there
        memory = mmap.mmap(-1, max(1, room * (image_bytes + 1)))
        flat = torch.frombuffer(memory, dtype=torch.uint8)[: room * (image_bytes + 1)]
        pixels, filled = flat.split([room * image_bytes, room])
        return pixels.view(room, 3, *self.size), filled

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_cache"], state["_filled"] = self._cache[:0].clone(), self._filled[:0].clone()
        return state

    def untransformed(self) -> ImageDataset:
        """The same images without random changes, on the same cache."""
        other = ImageDataset.__new__(ImageDataset)
        other.__dict__ = {**self.__dict__, "transform": None, "num_views": 1}
        return other

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, draw: int | Draw) -> Tensor:
        """One image, uint8 [3,H,W].

        Args:
            draw: a position with the seed of its transform, or a bare position: no transform.

        Raises:
            OSError: the image cannot be read.
        """
        with torch.random.fork_rng(devices=[]):
            return self._get(draw).clone()  # never a window into the cache

    def __getitems__(self, draws: Sequence[int | Draw]) -> Batch:
        """Several images at once, which is how DataLoader asks for a batch.

        Args:
            draws: as for one.

        Returns:
            "images" uint8 [B,3,H,W], with two views "views" as well, "indices" int64 [B], "valid" bool [B] (False:
            could not be read, all grey).

        Raises:
            OSError: an image cannot be read and on_bad_image is "error".
        """
        views = torch.full((self.num_views, len(draws), 3, *self.size), GREY, dtype=torch.uint8)
        valid = torch.ones(len(draws), dtype=torch.bool)
        with torch.random.fork_rng(devices=[]):
            for row, draw in enumerate(draws):
                try:
                    for number, view in enumerate(views):
                        view[row] = self._get(draw if number == 0 else _second(draw))
                except OSError:
                    if self.on_bad_image == "error":
                        raise
                    valid[row] = False
        indices = torch.tensor([d.image if isinstance(d, Draw) else d for d in draws], dtype=torch.int64)
        second = {"views": views[1]} if self.num_views > 1 else {}
        return {"images": views[0], **second, "indices": indices, "valid": valid}

    def _get(self, draw: int | Draw) -> Tensor:
        if not isinstance(draw, Draw):
            return self._load(draw)
        image = self._load(draw.image)
        if self.transform is None:
            return image
        torch.default_generator.manual_seed(draw.seed)  # torch.manual_seed would also touch CUDA, which a fork must not
        return self.transform(image)

    def _load(self, index: int) -> Tensor:
        cached = 0 <= index < len(self._filled)
        if cached and self._filled[index]:
            return self._cache[index]
        path = self.paths[index]
        try:
            image = decode_image(path, self.size)
        except Exception as error:  # Pillow's plugins raise whatever their parsers happen to
            raise OSError(
                f"Cannot read image {path!r}: {error}. Repair or remove it, or set DATALOADER.ON_BAD_IMAGE skip"
            ) from error
        if cached:
            self._cache[index] = image
            self._filled[index] = 1  # after the pixels: another worker may look at any time
        return image


def _second(draw: int | Draw) -> int | Draw:
    return Draw(draw.image, (draw.seed + SECOND_VIEW) % 2**32) if isinstance(draw, Draw) else draw
