"""VERI-Wild: two versions of its lists, cameras from a table or the lines, queries that the gallery repeats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlt.data.datasets import read_dataset

IMAGES = ["00002/000011", "00001/000003", "00001/000001", "31388/321972", "31388/321973", "31389/321999"]
CAMERAS = [23, 174, 8, 61, 7, 61]
INFO = "id/image;Camera ID;Time;Model;Type;Color\n" + "".join(
    f"{image};{camera};2018-03-11 15:01:33;Audi;SUV; white\n" for image, camera in zip(IMAGES, CAMERAS)
)
TRAIN, QUERY, GALLERY = range(3), range(3, 4), range(4, 6)
RECORDS = [
    [("000001.jpg", 1, 8), ("000003.jpg", 1, 174), ("000011.jpg", 2, 23)],
    [("321972.jpg", 31388, 61)],
    [("321973.jpg", 31388, 7), ("321999.jpg", 31389, 61)],
]


def names(rows: range, suffix: str = "") -> str:
    return "".join(f"{IMAGES[i]}{suffix}\n" for i in rows)


def full(rows: range) -> str:
    """Lines of the other version; the label of training lines is counted anew, so it says nothing."""
    return "".join(f"{IMAGES[i]}.jpg {label} {CAMERAS[i]}\n" for label, i in enumerate(rows))


def files(size: int = 3000, **changes: str) -> dict[str, str]:
    lists = {
        "train_list.txt": names(TRAIN),
        f"test_{size}_query.txt": names(QUERY, ".jpg"),
        f"test_{size}.txt": names(GALLERY),
        "vehicle_info.txt": INFO,
    }
    return whole({name: changes.get(name.split(".")[0], text) for name, text in lists.items()})


def whole(lists: dict[str, str]) -> dict[str, str]:
    return {f"images/{image}.jpg": "" for image in IMAGES} | {f"train_test_split/{k}": v for k, v in lists.items()}


@pytest.mark.parametrize("below", ["VERI-Wild", "VeRI-Wild", "veriwild/VERI-Wild", "veriwild"])
def test_layouts(below: str, tmp_path: Path, write: Callable, ids: Callable) -> None:
    folder = write(below, files())
    for name, root in (("SmallVeRiWild", str(tmp_path)), (f"SmallVeRiWild@{folder}", "")):
        found = read_dataset(name, root=root)
        assert [ids(part) for part in (found.train, found.query, found.gallery)] == RECORDS
        assert all(Path(r.path).is_file() for r in found.train + found.query + found.gallery)
        assert not found.random_galleries


@pytest.mark.parametrize(
    ("name", "size"),
    [("SmallVeRiWild", 3000), ("MediumVeRiWild", 5000), ("LargeVeRiWild", 10000), ("VeRiWild", 10000)],
)
def test_sizes(name: str, size: int, tmp_path: Path, write: Callable) -> None:
    write("VERI-Wild", files(size))
    assert len(read_dataset(name, root=str(tmp_path)).gallery) == 2
    (tmp_path / f"VERI-Wild/train_test_split/test_{size}_query.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is not there.*\n.*lacks train_test_split/test_{size}_query"):
        read_dataset(name, root=str(tmp_path))


def test_lists_that_hold_the_camera(tmp_path: Path, write: Callable, ids: Callable) -> None:
    lists = {"train_list_start0.txt": TRAIN, "test_3000_id_query.txt": QUERY, "test_3000_id.txt": GALLERY}
    write("VERI-Wild", whole({name: full(rows) for name, rows in lists.items()}))
    found = read_dataset("SmallVeRiWild", root=str(tmp_path))
    assert [ids(part) for part in (found.train, found.query, found.gallery)] == RECORDS


def test_a_gallery_that_repeats_the_queries(tmp_path: Path, write: Callable, ids: Callable) -> None:
    write("VERI-Wild", files(test_3000=names(range(3, 6))))
    assert ids(read_dataset("SmallVeRiWild", root=str(tmp_path)).gallery) == RECORDS[2]


@pytest.mark.parametrize(
    "info",
    [
        INFO.partition("\n")[2],  # no header: the first image must not be lost
        "\ufeff" + INFO.replace("\n", "\r\n"),
        INFO.replace("00001/000001", "00001/000001.jpg"),
        INFO + "\n",
    ],
)
def test_tables_of_cameras(info: str, tmp_path: Path, write: Callable, ids: Callable) -> None:
    write("VERI-Wild", files(vehicle_info=info))
    found = read_dataset("SmallVeRiWild", root=str(tmp_path))
    assert ids(found.train) == RECORDS[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vehicle_info": INFO.replace("00001/000001;8", "00001/000001;x")}, r"vehicle_info.txt:4: wanted 'VEHICLE/IM"),
        (
            {"vehicle_info": INFO.replace("00001/000001;", "00001/000009;")},
            r"train_list.txt:3: wanted .*'VEHICLE/IMAGE' with its camera in 'vehicle_info.txt', got '00001/000001'",
        ),
        ({"train_list": "000003.jpg 0 5\n"}, r"train_list.txt:1: wanted .* got '000003.jpg 0 5'"),
        ({"train_list": "00001/000003.jpg 0\n"}, r"train_list.txt:1: wanted .* got '00001/000003.jpg 0'"),
        ({"test_3000": ""}, "test_3000.txt lists no images"),
    ],
)
def test_bad_lists(change: dict[str, str], message: str, tmp_path: Path, write: Callable) -> None:
    write("VERI-Wild", files(**change))
    with pytest.raises(ValueError, match=message):
        read_dataset("SmallVeRiWild", root=str(tmp_path))
