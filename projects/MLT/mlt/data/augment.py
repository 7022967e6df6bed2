"""Random changes of a whole batch at once, on its device: the distribution of `transforms`, but no image alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlt.data.jitter import jitter_
from mlt.data.transforms import ERASE_AREA, ERASE_ASPECT
from mlt.utils.transfer import send

ATTEMPTS = 10  # of torchvision's RandomErasing to find a rectangle that is smaller than the image
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# which of a row's uniform numbers decides what
FLIP, TOP, LEFT, JITTER, ORDER, FACTOR, ERASE, BOX = 0, 1, 2, 3, slice(4, 8), slice(8, 12), 12, slice(13, None)
COUNT = 13 + 4 * ATTEMPTS
Floats = NDArray[np.float64]


def uniforms(seeds: Tensor, count: int) -> Floats:
    """Random numbers of which each row depends on its own seed only (SplitMix64; Steele et al., OOPSLA 2014).

    Args:
        seeds: int64 [B] on the CPU.
        count: numbers of a row.

    Returns:
        [B, count] in [0, 1).
    """
    start = _scatter(seeds.numpy().astype(np.uint64))  # else neighbouring seeds would share numbers
    steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (_scatter(start[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _scatter(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def erased_boxes(numbers: Floats, size: Sequence[int]) -> NDArray[np.int64]:
    """The first of ten random rectangles that is smaller than the image, as torchvision's RandomErasing finds it.

    Args:
        numbers: uniform [B, 40]: for each attempt area, aspect, top, left.
        size: height and width of the image.

    Returns:
        int64 [B, 4]: top, left, height, width; all 0 where no attempt succeeded.
    """
    height, width = size
    area, aspect, top, left = np.moveaxis(numbers.reshape(-1, ATTEMPTS, 4), 2, 0)
    area = height * width * (ERASE_AREA[0] + area * (ERASE_AREA[1] - ERASE_AREA[0]))
    low, high = np.log(ERASE_ASPECT)
    aspect = np.exp(low + aspect * (high - low))
    heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)
    tops, lefts = np.floor(top * (height - heights + 1)), np.floor(left * (width - widths + 1))
    attempts = np.stack([tops, lefts, heights, widths], axis=2)
    first = attempts[np.arange(len(fits)), fits.argmax(axis=1)]
    return (first * fits.any(axis=1)[:, None]).astype(np.int64)


@dataclass(frozen=True)
class BatchTransform:
    """Flip, pad and crop, colour jitter, random erasing of a batch, as `build_train_transform` does them to one image.

    A row is decided by its image and its seed: neither by the rest of the batch nor by who else draws numbers.

    Args:
        size: height and width of the images.
        flip: probability of a horizontal flip.
        padding: black pixels added on each side before a random crop to `size`; 0 = no crop.
        jitter: probability of colour jitter.
        jitter_strength: brightness, contrast, saturation and hue as in torchvision's ColorJitter.
        erase: probability of erasing a rectangle.
        erase_value: red, green and blue of that rectangle in 0..255.
    """

    size: Sequence[int]
    flip: float = 0.5
    padding: int = 10
    jitter: float = 0.0
    jitter_strength: Sequence[float] = (0.15, 0.15, 0.1, 0.1)
    erase: float = 0.0
    erase_value: Sequence[float] = (152, 142, 127)

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Changed copies of the images.

        Args:
            images: uint8 [B, 3, H, W], best channels last in memory.
            seeds: int64 [B] on the CPU, 0 <= seed < 2**32.

        Returns:
            uint8 [B, 3, H, W], channels last in memory, on the images' device.
        """
        numbers = uniforms(seeds, COUNT)
        rows = self._flip_and_crop(images.contiguous(memory_format=torch.channels_last), numbers)
        if self.jitter > 0:
            self._jitter(rows, numbers)
        if self.erase > 0:
            self._erase(rows, numbers)
        return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    def _flip_and_crop(self, images: Tensor, numbers: Floats) -> Tensor:
        """A window of each padded image, or of its mirror image, all copied at once; [B, H, W * 3]."""
        (height, width), padding, count = self.size, self.padding, len(images)
        pixels, flipped = images.permute(0, 2, 3, 1), (numbers[:, FLIP] < self.flip).nonzero()[0]
        padded = pixels.new_zeros(count + len(flipped), height + 2 * padding, width + 2 * padding, 3)
        inner = padded[:, padding : padding + height, padding : padding + width]
        inner[:count] = pixels
        inner[count:] = pixels.index_select(0, send(torch.from_numpy(flipped), images.device)).flip(2)
        shown = np.arange(count)
        shown[flipped] = count + np.arange(len(flipped))
        top, left = np.floor(numbers[:, TOP : LEFT + 1] * (2 * padding + 1)).astype(np.int64).T
        line = 3 * padded.shape[2]
        begin = (shown * padded.shape[1] + top) * line + 3 * left
        last = padded.numel() - (height - 1) * line - 3 * width
        windows = padded.as_strided((last + 1, height, 3 * width), (1, line, 1))  # one begins at every byte
        return windows.index_select(0, send(torch.from_numpy(begin), images.device))

    def _jitter(self, rows: Tensor, numbers: Floats) -> None:
        """Torchvision's four changes in random order, in place."""
        strength = np.asarray(self.jitter_strength, dtype=np.float64)
        centre = np.array([1.0, 1.0, 1.0, 0.0])  # of the factors; they are not negative but for hue
        low = np.maximum(centre - strength, [0.0, 0.0, 0.0, -0.5])
        chosen = (numbers[:, JITTER] < self.jitter).nonzero()[0]
        factors = low + numbers[chosen, FACTOR] * (centre + strength - low)
        order = numbers[chosen, ORDER].argsort(axis=1)
        order = order[strength[order] > 0].reshape(len(chosen), np.count_nonzero(strength > 0))
        jitter_(rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2), chosen, order, factors)

    def _erase(self, rows: Tensor, numbers: Floats) -> None:
        """A masked fill, in place, in bits: `torch.where` takes ten times as long for bytes on a CPU."""
        boxes = erased_boxes(numbers[:, BOX], self.size) * (numbers[:, ERASE] < self.erase)[:, None]
        top, left, height, width = send(torch.from_numpy(boxes), rows.device)[:, :, None].unbind(1)
        y, x = (torch.arange(n, device=rows.device).expand(len(rows), n) for n in self.size)
        lines = _within(y, top, top + height)[:, :, None]
        pixels = _within(x, left, left + width).repeat_interleave(3, 1)[:, None]
        colour = send(torch.tensor(self.erase_value).to(torch.uint8).repeat(self.size[1]), rows.device)
        rows.bitwise_xor_((rows ^ colour).bitwise_and_(lines).bitwise_and_(pixels))


def _within(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """255, all bits, where low <= value < high, else 0."""
    return ((values >= low) & (values < high)).to(torch.uint8).neg_()
