"""VeRi-776 and PersonX: identity and camera in the file names, each with its own numbering."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mlt.data.datasets import read_dataset

VERI = [
    "image_train/0002_c002_00030600_0.jpg",
    "image_train/0001_c020_00016450_0.jpg",
    "image_query/0700_c001_00030630_0.jpg",
    "image_test/0700_c002_00030650_0.jpg",
    "image_test/-1_c003_00030650_0.jpg",
    "image_test/0776_c019_00030650_1.jpg",
    "name_train.txt",
    "gt_index.txt",
]
PERSONX = [
    "bounding_box_train/0001_c3s1_01_00.jpg",
    "bounding_box_train/0001_c12s1_02_00.jpg",
    "query/0411_c8s1_03_00.jpg",
    "bounding_box_test/0411_c10s1_04_00.jpg",
    "bounding_box_test/0412_c4s1_04_00.jpg",
    "bounding_box_test/0412_c11s1_04_00.jpg",
    "bounding_box_test/0412_c5s1_04_00.jpg",
]


@pytest.mark.parametrize("below", ["VeRi", "VeRi_with_plate", "veri/VeRi", "veri/VeRi_with_plate", "veri"])
def test_veri(below: str, tmp_path: Path, write: Callable, ids: Callable) -> None:
    folder = write(below, dict.fromkeys(VERI, ""))
    for name, root in (("VeRi", str(tmp_path)), (f"VeRi@{folder}", "")):
        found = read_dataset(name, root=root)
        assert ids(found.train) == [("0001_c020_00016450_0.jpg", 1, 19), ("0002_c002_00030600_0.jpg", 2, 1)]
        assert ids(found.query) == [("0700_c001_00030630_0.jpg", 700, 0)]
        assert ids(found.gallery) == [("0700_c002_00030650_0.jpg", 700, 1), ("0776_c019_00030650_1.jpg", 776, 18)]
        assert found.trials() == [(slice(None, 1), slice(1, None))]


@pytest.mark.parametrize("below", ["PersonX", "personx/PersonX", "personx"])
def test_personx(below: str, tmp_path: Path, write: Callable, ids: Callable, caplog: pytest.LogCaptureFixture) -> None:
    write(below, dict.fromkeys(PERSONX, ""))
    with caplog.at_level(logging.WARNING):
        found = read_dataset("PersonX", root=str(tmp_path))
    assert ids(found.train) == [("0001_c12s1_02_00.jpg", 1, 5), ("0001_c3s1_01_00.jpg", 1, 0)]
    assert ids(found.query) == [("0411_c8s1_03_00.jpg", 411, 2)]
    assert [r.camid for r in found.gallery] == [3, 4, 1]
    assert "left out 1 names without identity and camera, e.g. ['0412_c5s1_04_00.jpg']" in caplog.text


@pytest.mark.parametrize(("name", "wanted"), [("VeRi", "image_train"), ("PersonX", "bounding_box_train")])
def test_what_is_missing_is_said(name: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"(?s){name} is not there.*Expected\n  {name}/{wanted}.*{name}@PATH"):
        read_dataset(name, root=str(tmp_path))
