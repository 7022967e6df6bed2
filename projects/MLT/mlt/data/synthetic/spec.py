"""What to render: the checked arguments of one domain, and the random streams that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

DOMAINS = ("campus", "station")

_MAX_IDS = 9999  # four digits in a Market-1501 file name
_MAX_CAMS = 9  # one digit in a Market-1501 file name


class Stream(IntEnum):
    """Independent random streams; each image, person and camera owns one, so the order of rendering does not matter."""

    PERSON = 0
    VISITS = 1
    SHOT = 2
    STRANGER = 3
    CAMERA = 4


@dataclass(frozen=True)
class DomainSpec:
    """One synthetic domain; equal specs give equal files.

    Args:
        domain: "campus" (bright, summer clothes) or "station" (dim, winter clothes).
        num_train_ids: persons in ``bounding_box_train``, numbered from 1.
        num_test_ids: persons in ``query`` and ``bounding_box_test``, numbered after the training persons.
        images_per_id: images of each person over all cameras it visits, at least 4.
        num_cams: cameras, 2 to 9; a person is seen by at least two of them.
        seed: chooses the persons and what happens in each image.
        camera_seed: chooses the cameras: colours, sharpness, view and background scene.
        size: (height, width) of the images in pixels, at least (32, 16).
        distractors: gallery images with pid 0, strangers and background that match no query.
        junk: gallery images with pid -1, badly cropped persons that the protocol ignores.

    Raises:
        ValueError: an argument is out of its range.
    """

    domain: str
    num_train_ids: int = 60
    num_test_ids: int = 60
    images_per_id: int = 24
    num_cams: int = 5
    seed: int = 0
    camera_seed: int = 0
    size: tuple[int, int] = (64, 32)
    distractors: int = 0
    junk: int = 0

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise ValueError(f"domain: unknown {self.domain!r}; known: {', '.join(DOMAINS)}.")
        self._check("num_train_ids", 1, _MAX_IDS)
        self._check("num_test_ids", 1, _MAX_IDS - self.num_train_ids)
        self._check("images_per_id", 4, 999)
        self._check("num_cams", 2, _MAX_CAMS)
        for name in ("seed", "camera_seed", "distractors", "junk"):
            self._check(name, 0, 2**31 - 1)
        height, width = self.size
        if height < 32 or width < 16:
            raise ValueError(f"size: got {height}x{width}, wanted at least 32x16 pixels (height x width).")

    def _check(self, name: str, lowest: int, highest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"{name}: got {value}, wanted a whole number from {lowest} to {highest}.")

    def rng(self, stream: Stream, *key: int) -> np.random.Generator:
        """Return the generator of one person, image or camera.

        Args:
            stream: what the numbers are for.
            key: which one, as non-negative numbers.
        """
        seed = self.camera_seed if stream is Stream.CAMERA else self.seed
        return np.random.default_rng([seed, DOMAINS.index(self.domain), int(stream), *key])
