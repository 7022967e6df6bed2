"""Records to pixels: decode and resize, transform under the draw's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from mlt.data.image_store import BROKEN, EMPTY, GREY, WHOLE, ImageStore
from mlt.data.samplers import Draw
from mlt.data.transforms import Transform, second_seed
from mlt.structures import Batch, ReidRecord


def decode_image(path: str, size: Sequence[int]) -> Tensor:
    """Read an image file as it is meant to be seen, in RGB, bicubically resized (with antialiasing).

    Args:
        path: any file that Pillow reads.
        size: height and width of the result.

    Returns:
        uint8 [3, height, width], channels last in memory.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits of grey, of which Pillow's conversion would make all above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB")
    return torch.from_numpy(np.array(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))).permute(2, 0, 1)


class ImageDataset(Dataset[Tensor]):
    """The images of some records. It knows no labels: whoever has a batch's indices looks them up.

    Args:
        records: what to read.
        size: height and width of all images.
        transform: random change of an image, uint8 [3,H,W] to the same; it may use torch's global CPU generator only.
        on_bad_image: "error" stops at an image that cannot be read; "skip" gives a grey one and says so in "valid".
        store: holds the records' images of this size, where each is decoded once, by whoever needs it first. A spawned
            worker works without it.
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
        store: ImageStore | None = None,
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
        self.store = store
        self._rows = torch.tensor([store.rows[path] for path in self.paths] if store else [], dtype=torch.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "store": None}

    def untransformed(self) -> ImageDataset:
        """The same images without random changes, from the same store."""
        other = ImageDataset.__new__(ImageDataset)
        other.__dict__ = {**self.__dict__, "transform": None, "num_views": 1}
        return other

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def in_store(self) -> bool:
        """Whether no image needs to be decoded any more."""
        return self.store is not None and self.store.full

    def __getitem__(self, draw: int | Draw) -> Tensor:
        """One image, uint8 [3,H,W].

        Args:
            draw: a position with the seed of its transform, or a bare position: no transform.

        Raises:
            OSError: the image cannot be read.
        """
        images, valid = self.load([draw.image if isinstance(draw, Draw) else draw])
        if not valid:
            self._decode(draw.image if isinstance(draw, Draw) else draw)  # which tells why
        with torch.random.fork_rng(devices=[]):
            return self._change(images[0], draw)

    def __getitems__(self, draws: Sequence[int | Draw]) -> Batch:
        """Several images at once, which is how DataLoader asks for a batch.

        Args:
            draws: as for one.

        Returns:
            "images" uint8 [B,3,H,W], channels last in memory, with two views "views" as well, "indices" int64 [B],
            "valid" bool [B] (False: could not be read, all grey).

        Raises:
            OSError: an image cannot be read and on_bad_image is "error".
        """
        indices = [draw.image if isinstance(draw, Draw) else draw for draw in draws]
        images, valid = self.load(indices)
        batch = {"images": images, "indices": torch.tensor(indices, dtype=torch.int64), "valid": valid}
        if self.transform is not None:
            views = [images, images.clone()][: self.num_views]
            with torch.random.fork_rng(devices=[]):
                for row in valid.nonzero().flatten().tolist():
                    for number, view in enumerate(views):
                        view[row] = self._change(view[row], draws[row] if number == 0 else _second(draws[row]))
            batch |= dict(zip(("images", "views"), views))
        return batch

    def load(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images without random changes; the store, if there is one, has them afterwards.

        Args:
            indices: B positions.

        Returns:
            uint8 [B,3,H,W], channels last in memory, on the store's device; bool [B], False where an image could not
            be read and is grey.

        Raises:
            OSError: an image cannot be read and on_bad_image is "error".
        """
        if self.store is None:
            decoded = [self._decode_or_skip(i) for i in indices]
            grey = torch.full((3, *self.size), GREY, dtype=torch.uint8)
            images = torch.stack([(grey if image is None else image).permute(1, 2, 0) for image in decoded])
            return images.permute(0, 3, 1, 2), torch.tensor([image is not None for image in decoded])
        self.fill(indices)
        rows = self._rows[indices]
        return self.store.gather(rows), self.store.flags[rows] == WHOLE

    def fill(self, indices: Sequence[int]) -> None:
        """Decode those of some images that the store, if there is one, has not got.

        Args:
            indices: positions.

        Raises:
            OSError: an image cannot be read and on_bad_image is "error".
        """
        if self.store is None:
            return
        last = WHOLE if self.on_bad_image == "error" else BROKEN  # of the flags that need nothing more
        rows, flags = self._rows[indices], self.store.flags
        for place in ((flags[rows] < WHOLE) | (flags[rows] > last)).nonzero().flatten().tolist():
            row = int(rows[place])
            if not WHOLE <= int(flags[row]) <= last:  # else it has come twice
                self.store.put(row, self._decode_or_skip(indices[place]))

    def missing(self) -> list[int]:
        """Positions of the images that the store has not looked at."""
        return [] if self.store is None else (self.store.flags[self._rows] == EMPTY).nonzero().flatten().tolist()

    def _decode_or_skip(self, index: int) -> Tensor | None:
        try:
            return self._decode(index)
        except OSError:
            if self.on_bad_image == "error":
                raise
            return None

    def _decode(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            return decode_image(path, self.size)
        except Exception as error:  # Pillow's plugins raise whatever their parsers happen to
            raise OSError(
                f"Cannot read image {path!r}: {error}. Repair or remove it, or set DATALOADER.ON_BAD_IMAGE skip"
            ) from error

    def _change(self, image: Tensor, draw: int | Draw) -> Tensor:
        if self.transform is None or not isinstance(draw, Draw):
            return image
        torch.default_generator.manual_seed(draw.seed)  # torch.manual_seed would also touch CUDA, which a fork must not
        return self.transform(image)


def _second(draw: int | Draw) -> int | Draw:
    return Draw(draw.image, second_seed(draw.seed)) if isinstance(draw, Draw) else draw
