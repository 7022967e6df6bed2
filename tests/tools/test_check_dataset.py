"""The checker of data sets: counts beside the published ones, files that are broken, and its exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mlt.data.datasets import PUBLISHED
from mlt.data.datasets.published import Count, Published
from tools import check_dataset

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c6s1_000451_03.jpg", "0007_c3s1_000001_01.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c2s1_000301_01.jpg", "0001_c2s1_001051_00.jpg"],
}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A Market-1501 of six images and one junk."""
    for part, names in MARKET.items():
        for name in names:
            path = tmp_path / "Market-1501-v15.09.15" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16), (len(name), 90, 20)).save(path)
    return tmp_path / "Market-1501-v15.09.15"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """published(train=Count(...)) makes the small set the published one, but for what is given."""

    def publish(**changes: Count) -> None:
        small = Published(Count(3, 2), Count(1, 1), Count(2, 2), cameras=4)
        monkeypatch.setitem(PUBLISHED, "Market1501", small._replace(**changes))

    return publish


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = check_dataset.main([*words, "--jobs", "2"])
    return status, *capsys.readouterr()


def cells(text: str, *start: str) -> list[str]:
    """The row of the table that starts so."""
    rows = [line.split() for line in text.splitlines()]
    return next(row for row in rows if row[: len(start)] == list(start))[len(start) :]


def test_a_whole_copy(market: Path, published: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    published()
    status, out, _ = check(["Market1501", "--root", str(market.parent)], capsys)
    assert status == 0, out
    assert cells(out, "train", "images") == ["3", "3", "as", "published"]
    assert cells(out, "gallery", "identities") == ["2", "2", "as", "published"]
    assert cells(out, "train", "cameras") == ["3"]
    assert cells(out, "all", "cameras") == ["4", "4", "as", "published"]
    assert "6 files, all opened: 0 broken" in out


def test_counts_that_differ(market: Path, published: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    published(train=Count(12_936, 2))
    status, out, _ = check([f"Market1501@{market}"], capsys)
    assert status == 1
    assert cells(out, "train", "images") == ["3", "12,936", "DIFFERS"]
    assert cells(out, "train", "identities") == ["2", "2", "as", "published"]


def test_broken_files_are_named(market: Path, published: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    published()
    names = sorted((market / "bounding_box_train").iterdir())
    names[0].write_bytes(names[0].read_bytes()[:150])
    names[1].write_bytes(b"")
    status, out, _ = check([f"Market1501@{market}"], capsys)
    assert status == 1
    assert "6 files, all opened: 2 broken" in out
    assert f"  {names[0]}: unreadable: " in out
    assert f"  {names[1]}: empty" in out
    status, out, _ = check([f"Market1501@{market}", "--fast"], capsys)
    assert status == 1
    assert "6 files, not opened: 1 broken" in out
    assert f"  {names[1]}: empty" in out


def test_listed_files_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = "".join(f"b{i:02d}.png,{i}\n" for i in range(25))
    (tmp_path / "list.csv").write_text(f"path,pid\na.png,0\na.png,0\n{rows}")
    status, out, _ = check([f"csv@{tmp_path}/list.csv"], capsys)
    assert status == 1
    assert "26 files, all opened: 25 broken" in out  # the image listed twice counts once
    assert f"{tmp_path}/b00.png: missing" in out
    assert "b20.png" not in out
    assert "and 5 more" in out


def test_several_sets_and_one_that_is_not_there(
    market: Path, published: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.setenv("FASTREID_DATASETS", str(market.parent))
    status, out, err = check(["DukeMTMC", "Market1501"], capsys)
    assert status == 2
    assert err.startswith("error: DukeMTMC is not there. Looked in")
    assert "6 files" in out
    status, _, err = check(["Market1051"], capsys)
    assert status == 2
    assert "No dataset 'Market1051'. Did you mean 'Market1501'" in err


def test_random_galleries_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        path = tmp_path / "image" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    lists = tmp_path / "train_test_split"
    lists.mkdir()
    (lists / "train_list.txt").write_text("0 1\n")
    (lists / "test_list_800.txt").write_text("1 2\n2 2\n3 3\n")
    status, out, _ = check([f"SmallVehicleID@{tmp_path}"], capsys)
    assert status == 1
    assert cells(out, "gallery", "images") == ["2", "800", "DIFFERS"]
    assert cells(out, "all", "cameras") == ["0", "0", "as", "published"]
    assert "10 random galleries" in out
    assert "4 files, all opened: 0 broken" in out


def test_no_threads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_dataset.main(["Market1501", "--jobs", "0"])
    assert "--jobs must be >= 1, got 0" in capsys.readouterr().err
