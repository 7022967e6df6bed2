"""VehicleID: lists without cameras, and a test of several random galleries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlt.data.datasets import read_dataset
from mlt.structures import UNKNOWN, ReidSet

# vehicles are not grouped, names come with and without a suffix, lists begin and lines end as on Windows
TEST = "0000009 30\r\n0000004 20\r\n0000007.jpg 20\r\n\r\n0000005 30\r\n0000006 20\r\n"


def files(size: int | None = 800, test: str = TEST) -> dict[str, str]:
    lists = {} if size is None else {f"train_test_split/test_list_{size}.txt": test}
    images = {f"image/{number:07d}.jpg": "" for number in range(1, 10)}
    return images | lists | {"train_test_split/train_list.txt": "\ufeff0000003 8\n0000001 7\n0000002.jpg 7\n"}


@pytest.mark.parametrize(
    "below", ["VehicleID_V1.0", "VehicleID", "vehicleid/VehicleID", "vehicleid/VehicleID_V1.0", "vehicleid"]
)
def test_layouts(below: str, tmp_path: Path, write: Callable, ids: Callable) -> None:
    folder = write(below, files())
    for name, root in (("SmallVehicleID", str(tmp_path)), (f"SmallVehicleID@{folder}", "")):
        found = read_dataset(name, root=root)
        assert found.name == name
        assert ids(found.train) == [
            ("0000001.jpg", 7, UNKNOWN),
            ("0000002.jpg", 7, UNKNOWN),
            ("0000003.jpg", 8, UNKNOWN),
        ]
        assert all(Path(r.path).is_file() for r in found.train + found.query + found.gallery)


@pytest.mark.parametrize(
    ("name", "size"), [("SmallVehicleID", 800), ("MediumVehicleID", 1600), ("LargeVehicleID", 2400)]
)
def test_sizes(name: str, size: int, tmp_path: Path, write: Callable) -> None:
    write("VehicleID_V1.0", files(size))
    assert len(read_dataset(name, root=str(tmp_path)).gallery) == 2
    (tmp_path / f"VehicleID_V1.0/train_test_split/test_list_{size}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is not there.*\n.*lacks train_test_split/test_list_{size}"):
        read_dataset(name, root=str(tmp_path))


def test_source_needs_no_test_list(tmp_path: Path, write: Callable) -> None:
    write("VehicleID_V1.0", files(None))
    found = read_dataset("VehicleID", root=str(tmp_path))
    assert (len(found.train), found.has_test) == (3, False)
    write("VehicleID_V1.0", files(13164))
    assert read_dataset("VehicleID", root=str(tmp_path)).has_test


def pools(found: ReidSet) -> list[tuple[list[str], list[str]]]:
    names = [Path(r.path).stem for r in found.query + found.gallery]
    return [([names[i] for i in query], [names[i] for i in gallery]) for query, gallery in found.trials()]


def test_ten_galleries_of_one_image_each(tmp_path: Path, write: Callable) -> None:
    write("VehicleID_V1.0", files())
    found = read_dataset("SmallVehicleID", root=str(tmp_path))
    pids = [r.pid for r in found.query + found.gallery]
    trials = found.trials()
    assert len(trials) == 10
    for query, gallery in trials:
        assert sorted(pids[i] for i in gallery) == [20, 30]
        assert sorted([*query.tolist(), *gallery.tolist()]) == list(range(5))
    assert len({tuple(gallery.tolist()) for _, gallery in trials}) > 3  # of 6 that there are
    # the first one is the split that whoever knows of no trials sees
    first_query, first_gallery = pools(found)[0]
    assert first_query == [Path(r.path).stem for r in found.query]
    assert first_gallery == [Path(r.path).stem for r in found.gallery]


def test_galleries_are_always_the_same(tmp_path: Path, write: Callable) -> None:
    """Results of two years are comparable only if these draws never change."""
    write("VehicleID_V1.0", files())
    one, other = (pools(read_dataset("SmallVehicleID", root=str(tmp_path))) for _ in range(2))
    assert one == other
    drawn = [" ".join(sorted(name[-1] for name in gallery)) for _, gallery in one]
    assert drawn == ["4 9", "5 7", "4 9", "5 6", "4 5", "5 6", "5 7", "5 6", "4 9", "5 6"]
    (tmp_path / "VehicleID_V1.0/train_test_split/test_list_800.txt").write_text("\n".join(reversed(TEST.split("\r\n"))))
    assert pools(read_dataset("SmallVehicleID", root=str(tmp_path))) == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0000004\n", r"test_list_800.txt:1: wanted '0000001 VEHICLE', got '0000004'"),
        ("0000004 20\n0000005 car\n", r"test_list_800.txt:2: wanted .* got '0000005 car'"),
        ("\n", "test_list_800.txt lists no images"),
        ("0000004 20\n0000005 20 3\n", "test_list_800.txt:2: wanted"),
    ],
)
def test_bad_lists(text: str, message: str, tmp_path: Path, write: Callable) -> None:
    write("VehicleID_V1.0", files(test=text))
    with pytest.raises(ValueError, match=message):
        read_dataset("SmallVehicleID", root=str(tmp_path))


def test_images_that_are_not_there(tmp_path: Path, write: Callable) -> None:
    write("VehicleID_V1.0", files(test="0000044 20\n"))
    with pytest.raises(FileNotFoundError, match=r"lists .*0000044.jpg, which is not there"):
        read_dataset("SmallVehicleID", root=str(tmp_path))
