"""Features of images with what is known of each, in one NumPy archive."""

from __future__ import annotations

import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mlt.utils.files import atomic


@dataclass(frozen=True)
class FeatureFile:
    """One row for each image; also the arrays of the archive.

    Args:
        features: float32 [N, D], unit rows.
        paths: str [N], absolute.
        pids: int64 [N], -1 where unknown.
        camids: int64 [N], -1 where unknown.
        splits: str [N], "train", "query" or "gallery".
    """

    features: np.ndarray
    paths: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    splits: np.ndarray

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in asdict(self).items()}
        if self.features.ndim != 2 or len(set(lengths.values())) != 1:
            raise ValueError(f"FeatureFile: wanted features [N, D] and N of all else, got {lengths}")

    def save(self, path: str | Path) -> None:
        """Write the archive.

        Args:
            path: file name, as it is; NumPy's usual suffix is .npz.
        """
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> FeatureFile:
        """Read an archive. It cannot run code.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not such an archive.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"No features {str(path)!r}, looked in {os.getcwd()}; tools/extract.py makes them")
        names = [field.name for field in fields(cls)]
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(**{name: archive[name] for name in names})
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no archive of {', '.join(names)} as tools/extract.py writes: {error}"
            ) from error

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's images, int64.

        Args:
            split: "train", "query", "gallery", or "all".

        Raises:
            ValueError: there are none.
        """
        rows = np.flatnonzero((self.splits == split) | (split == "all"))
        if not len(rows):
            raise ValueError(
                f"there are no {split} images among the features, only {', '.join(np.unique(self.splits))}"
            )
        return rows
