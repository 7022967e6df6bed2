"""Readers: names and their traps, both folder layouts, and messages that help."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from mlt.config import get_cfg
from mlt.data.datasets import datasets_root, merge_train, read_dataset, read_datasets
from mlt.registry import DATASETS
from mlt.structures import UNKNOWN, ReidRecord, ReidSet

MARKET = {
    "bounding_box_train": ["0007_c3s1_000001_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c6s1_000451_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c2s1_000301_01.jpg", "0001_c2s1_001051_00.jpg"],
}
DUKE = {
    "bounding_box_train": ["0005_c2_f0046985.jpg", "0001_c8_f0046182.jpg"],
    "query": ["0033_c1_f0057706.jpg"],
    "bounding_box_test": ["0033_c2_f0057706.jpg"],
}


def touch(folder: Path, files: dict[str, list[str]]) -> Path:
    """Readers look at names only, so the pictures may be empty."""
    for part, names in files.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / part / name).touch()
    return folder


def ids(records: Iterable[ReidRecord]) -> list[tuple[str, int, int]]:
    return [(os.path.basename(r.path), r.pid, r.camid) for r in records]


# --- three folders


@pytest.mark.parametrize("below", ["Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"])
def test_market(tmp_path: Path, below: str) -> None:
    touch(tmp_path / below, MARKET)
    found = read_dataset("Market1501", root=str(tmp_path))
    assert found.name == "Market1501"
    assert ids(found.train) == [
        ("0002_c1s1_000451_03.jpg", 2, 0),
        ("0002_c6s1_000451_03.jpg", 2, 5),
        ("0007_c3s1_000001_01.jpg", 7, 2),
    ]
    assert ids(found.query) == [("0001_c1s1_001051_00.jpg", 1, 0)]
    # junk is dropped, distractors stay
    assert ids(found.gallery) == [("0000_c2s1_000301_01.jpg", 0, 1), ("0001_c2s1_001051_00.jpg", 1, 1)]
    assert all(os.path.isfile(r.path) for r in found.train + found.query + found.gallery)


@pytest.mark.parametrize("below", ["DukeMTMC-reID", "dukemtmc/DukeMTMC-reID"])
def test_duke(tmp_path: Path, below: str) -> None:
    touch(tmp_path / below, DUKE)
    found = read_dataset("DukeMTMC", root=str(tmp_path))
    assert ids(found.train) == [("0001_c8_f0046182.jpg", 1, 7), ("0005_c2_f0046985.jpg", 5, 1)]
    assert ids(found.query) == [("0033_c1_f0057706.jpg", 33, 0)]


def test_name_at_path_reads_the_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path / "my", MARKET)
    found = read_dataset(f"Market1501@{tmp_path}/my", root="/nowhere")
    assert found.name == f"Market1501@{tmp_path}/my"
    assert len(found.train) == 3
    # a plain name never takes another set's folder for its own
    with pytest.raises(FileNotFoundError, match="DukeMTMC is not there"):
        read_dataset("DukeMTMC", root=str(tmp_path / "my"))


def test_only_the_file_name_is_parsed(tmp_path: Path) -> None:
    folder = touch(tmp_path / "0999_c9" / "-1_c4", MARKET)
    assert {r.pid for r in read_dataset(f"Market1501@{folder}", root="").train} == {2, 7}


def test_other_files_hidden_files_and_strange_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [*MARKET["query"], "Thumbs.db", "._0001_c1s1_001051_00.jpg", "holiday.jpg", "0003_c0s1_000001_00.jpg"]
    folder = touch(tmp_path, {**MARKET, "query": names})
    with caplog.at_level(logging.WARNING):
        found = read_dataset(f"Market1501@{folder}", root="")
    assert ids(found.query) == [("0001_c1s1_001051_00.jpg", 1, 0)]
    assert "query: left out 2 names without identity and camera" in caplog.text


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(touch(tmp_path, MARKET)))
    assert len(read_dataset("Market1501@~", root="").train) == 3


def test_missing_set_shows_what_was_wanted(tmp_path: Path) -> None:
    touch(tmp_path / "Market-1501-v15.09.15", {"query": MARKET["query"]})
    with pytest.raises(FileNotFoundError) as error:
        read_dataset("Market1501", root=str(tmp_path))
    message = str(error.value)
    assert f"{tmp_path}/Market-1501-v15.09.15: lacks bounding_box_train, bounding_box_test" in message
    assert f"{tmp_path}/market1501/Market-1501-v15.09.15: no such folder" in message
    assert "Expected\n  Market-1501-v15.09.15/bounding_box_train\n" in message
    assert "DATASETS.ROOT or FASTREID_DATASETS" in message
    assert "Market1501@PATH" in message
    assert "ICCV 2015" in message
    with pytest.raises(FileNotFoundError, match=r"(?s)/gone: no such folder.*PATH/bounding_box_train"):
        read_dataset(f"Market1501@{tmp_path}/gone", root="")


def test_folders_without_usable_images(tmp_path: Path) -> None:
    folder = touch(tmp_path, {**MARKET, "query": []})
    with pytest.raises(ValueError, match=r"query holds no images \(\.jpg"):
        read_dataset(f"Market1501@{folder}", root="")
    touch(tmp_path, {"query": ["a.jpg", "b.jpg"]})
    with pytest.raises(ValueError, match=r"query: no file name tells identity and camera .* got \['a.jpg', 'b.jpg'\]"):
        read_dataset(f"Market1501@{folder}", root="")


# --- MSMT17


def msmt(folder: Path, train: str = "train", test: str = "test") -> Path:
    names = {
        "list_train.txt": [("0001/0001_000_02_0303morning_0008_0.jpg", 1), ("0000/0000_001_14_x_0_0.jpg", 0)],
        "list_val.txt": [("0000/0000_000_01_0303morning_0015_0.jpg", 0)],
        "list_query.txt": [("0000/0000_000_01_0113noon_0008_0.jpg", 0)],
        "list_gallery.txt": [("0001/0001_000_15_a_0_0.jpg", 1), ("0000/0000_000_04_a_0_0.jpg", 0)],
    }
    for part, lines in names.items():
        base = folder / (train if part in ("list_train.txt", "list_val.txt") else test)
        for name, _ in lines:
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).touch()
        (folder / part).write_text("".join(f"{name} {pid}\n" for name, pid in lines))
    return folder


@pytest.mark.parametrize(
    ("below", "parts"),
    [
        ("MSMT17_V1", ("train", "test")),
        ("msmt17/MSMT17_V1", ("train", "test")),
        ("MSMT17_V2", ("mask_train_v2", "mask_test_v2")),
    ],
)
def test_msmt17(tmp_path: Path, below: str, parts: tuple[str, str]) -> None:
    folder = msmt(tmp_path / below, *parts)
    for name, root in (("MSMT17", str(tmp_path)), (f"MSMT17@{folder}", "")):
        found = read_dataset(name, root=root)
        assert ids(found.train) == [
            ("0000_000_01_0303morning_0015_0.jpg", 0, 0),
            ("0000_001_14_x_0_0.jpg", 0, 13),
            ("0001_000_02_0303morning_0008_0.jpg", 1, 1),
        ]
        # test identities are other people than the training ones of the same number
        assert ids(found.query) == [("0000_000_01_0113noon_0008_0.jpg", 2, 0)]
        assert ids(found.gallery) == [("0000_000_04_a_0_0.jpg", 2, 3), ("0001_000_15_a_0_0.jpg", 3, 14)]
        assert all(os.path.isfile(r.path) for r in found.train + found.query + found.gallery)


def test_msmt17_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)MSMT17_V1: no such.*MSMT17_V2: no such.*Expected.*CVPR 2018"):
        read_dataset("MSMT17", root=str(tmp_path))
    folder = msmt(tmp_path / "MSMT17_V1")
    (folder / "list_val.txt").write_text("\nnot_a_name 3\n")
    with pytest.raises(ValueError, match=r"list_val.txt:2: wanted .* got 'not_a_name 3'"):
        read_dataset("MSMT17", root=str(tmp_path))
    (folder / "list_val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"list_val.txt lists no images"):
        read_dataset("MSMT17", root=str(tmp_path))
    (folder / "list_val.txt").write_text("0000/0000_000_01_gone.jpg 0\n")
    with pytest.raises(FileNotFoundError, match=r"lists .*gone.jpg, which is not there; is the archive fully unpacked"):
        read_dataset("MSMT17", root=str(tmp_path))


# --- Folder@PATH


def test_folder_cameras_from_first_sub_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path,
        {"north": ["b.JPG", "a.png", "notes.txt"], "east/day1": ["c.jpeg"], ".trash": ["d.jpg"], ".": ["e.jpg"]},
    )
    with caplog.at_level(logging.WARNING):
        found = read_dataset(f"Folder@{tmp_path}", root="")
    assert ids(found.train) == [
        ("e.jpg", UNKNOWN, UNKNOWN),
        ("c.jpeg", UNKNOWN, 0),
        ("a.png", UNKNOWN, 1),
        ("b.JPG", UNKNOWN, 1),
    ]
    assert not found.has_test
    assert found.num_train_pids == 0
    assert "1 of 4 images are of unknown camera" in caplog.text


def test_flat_folder_has_no_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_dataset(f"Folder@{touch(tmp_path, {'.': ['b.jpg', 'a.jpg']})}", root="")
    assert ids(found.train) == [("a.jpg", UNKNOWN, UNKNOWN), ("b.jpg", UNKNOWN, UNKNOWN)]
    assert not caplog.text


def test_folder_cameras_from_regular_expression(tmp_path: Path) -> None:
    touch(tmp_path, {"day1": ["cam7_1.jpg", "cam3_1.jpg"], "day2": ["cam7_2.jpg", "other.jpg"]})
    found = read_dataset(f"Folder@{tmp_path}", root="", camera_regex=r"cam(\d+)_")
    assert [r.camid for r in found.train] == [0, 1, 1, UNKNOWN]


def test_folder_follows_links_once(tmp_path: Path) -> None:
    touch(tmp_path / "store", {"x": ["a.jpg"]})
    touch(tmp_path / "set", {".": ["z.jpg"]})
    (tmp_path / "set" / "cam1").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "store" / "x" / "back").symlink_to(tmp_path / "set")
    assert ids(read_dataset(f"Folder@{tmp_path}/set", root="").train) == [
        ("a.jpg", UNKNOWN, 0),
        ("z.jpg", UNKNOWN, UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("regex", "message"), [("cam(", "is not a regular expression"), ("cam", "must have one group")]
)
def test_bad_camera_regex(tmp_path: Path, regex: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"DATASETS.CAMERA_REGEX .* {message}"):
        read_dataset(f"Folder@{touch(tmp_path, {'.': ['a.jpg']})}", root="", camera_regex=regex)


def test_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Folder@.*gone: no such folder"):
        read_dataset(f"Folder@{tmp_path}/gone", root="")
    with pytest.raises(ValueError, match="no images"):
        read_dataset(f"Folder@{tmp_path}", root="")


# --- csv@FILE


def table(folder: Path, text: str, encoding: str = "utf-8") -> str:
    (folder / "set.csv").write_text(text, encoding=encoding)
    return f"csv@{folder}/set.csv"


def test_table(tmp_path: Path) -> None:
    name = table(
        tmp_path,
        "path, pid, camid, split, remark\n"
        "t/b.jpg, 9, 2, train, x\nt/a.jpg, 3, 1,,\n/abs/q.jpg, 5, 0, query,\n"
        "g.jpg, 0, 4, gallery,\nh.jpg, -1,, gallery,\n",
        encoding="utf-8-sig",
    )
    found = read_dataset(name, root="")
    assert found.name == name
    assert found.train == (ReidRecord(f"{tmp_path}/t/a.jpg", 3, 1), ReidRecord(f"{tmp_path}/t/b.jpg", 9, 2))
    assert found.query == (ReidRecord("/abs/q.jpg", 5, 0),)
    assert found.gallery == (ReidRecord(f"{tmp_path}/g.jpg", 0, 4), ReidRecord(f"{tmp_path}/h.jpg", UNKNOWN, UNKNOWN))


def test_table_with_words_for_identities_and_cameras(tmp_path: Path) -> None:
    name = table(
        tmp_path,
        "path,pid,camid,split\na.jpg,eve,west,train\nb.jpg,bob,,query\nc.jpg,eve,east,gallery\nd.jpg,,7,\n",
    )
    found = read_dataset(name, root="")
    assert ids(found.train) == [("a.jpg", 1, 2), ("d.jpg", UNKNOWN, 0)]
    assert ids(found.query) == [("b.jpg", 0, UNKNOWN)]
    assert ids(found.gallery) == [("c.jpg", 1, 1)]


def test_table_of_paths_only(tmp_path: Path) -> None:
    assert ids(read_dataset(table(tmp_path, "path\nb.jpg\na.jpg\n"), root="").train) == [
        ("a.jpg", UNKNOWN, UNKNOWN),
        ("b.jpg", UNKNOWN, UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,pid\na.jpg,1\n", r"first line must name the columns path,pid,camid,split, got \['file', 'pid'\]"),
        ("", "first line must name the columns"),
        ("path,pid\n", "has no rows"),
        ("path,split\na.jpg,train\nb.jpg,test\n", r"row 2 .*a split of train, query, gallery"),
        ("path,split\na.jpg,query\n", r"row 1 .* query a pid"),
        ("path,pid\n,3\n", r"row 1 after the header must have a path"),
        (
            "path,pid,camid\nb.jpg,1,0\na.jpg,3,0\n./a.jpg,4,0\n",
            r"rows 2 and 3 .* differ in pid or camid: .*'a.jpg', 'pid': '3'.* and .*'pid': '4'.*; keep the right one",
        ),
        ("path,camid\na.jpg,1\na.jpg,\n", r"rows 1 and 2 .*'camid': '1'.* and .*'camid': ''"),
        ('path\n"' + "a.jpg\n" * 30_000, r"set.csv cannot be read near line \d+: field larger than field limit"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_dataset(table(tmp_path, text), root="")


def test_an_image_may_be_listed_again(tmp_path: Path) -> None:
    """With the same values in a split, and with others in another split."""
    text = "path,pid,camid,split\na.jpg,3,0,\na.jpg,3,0,train\na.jpg,4,1,gallery\n"
    found = read_dataset(table(tmp_path, text), root="")
    assert ids(found.train) == [("a.jpg", 3, 0)] * 2
    assert ids(found.gallery) == [("a.jpg", 4, 1)]


def test_table_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set\.csv is not UTF-8 text"):
        read_dataset(table(tmp_path, "path,pid\na.jpg,zoë\n", encoding="latin-1"), root="")


def test_identities_that_are_too_long_for_integers_are_names(tmp_path: Path) -> None:
    found = read_dataset(table(tmp_path, f"path,pid,camid\na.jpg,{10**20},3\nb.jpg,7,{2**70}\n"), root="")
    assert ids(found.train) == [("a.jpg", 0, 1), ("b.jpg", 1, 0)]


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"csv@.*gone.csv: no such file"):
        read_dataset(f"csv@{tmp_path}/gone.csv", root="")


# --- the door


def test_unknown_and_incomplete_names() -> None:
    with pytest.raises(KeyError, match=r"No dataset 'Market1051'. Did you mean 'Market1501'.*Folder@PATH"):
        read_dataset("Market1051", root="")
    for name in ("Folder", "Folder@", "csv", "Market1501@"):
        with pytest.raises(ValueError, match=f"Dataset '{name}' lacks its path: write .*@PATH"):
            read_dataset(name, root="")


def test_registered_names_are_fastreids() -> None:
    assert {"Market1501", "DukeMTMC", "MSMT17"} <= set(DATASETS)


def test_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTREID_DATASETS", raising=False)
    assert datasets_root("") == "datasets"
    monkeypatch.setenv("FASTREID_DATASETS", "/data")
    assert datasets_root("") == "/data"
    assert datasets_root("mine") == "mine"


def test_sets_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "Market-1501-v15.09.15", MARKET)
    touch(tmp_path / "crops", {".": ["k1_a.jpg", "k2_b.jpg"]})
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    cfg = get_cfg()
    cfg.DATASETS.CAMERA_REGEX = "k([0-9])"
    with caplog.at_level(logging.INFO):
        market, crops = read_datasets(cfg, ("Market1501", f"Folder@{tmp_path}/crops"))
    assert len(market.gallery) == 2
    assert [r.camid for r in crops.train] == [0, 1]
    assert "Market1501: train 3 images of 2 identities, query 1, gallery 2" in caplog.text


def test_merge_keeps_order_and_separates_people_and_cameras() -> None:
    one = ReidSet("one", (ReidRecord("a", 7, 2), ReidRecord("b", 3, 0), ReidRecord("c", UNKNOWN, UNKNOWN)))
    two = ReidSet("two", (ReidRecord("d", 3, 1), ReidRecord("e", 7, 0)))
    assert merge_train([one, two]) == (
        ReidRecord("a", 1, 2),
        ReidRecord("b", 0, 0),
        ReidRecord("c", UNKNOWN, UNKNOWN),
        ReidRecord("d", 2, 4),
        ReidRecord("e", 3, 3),
    )
    assert merge_train([]) == ()
    blind = ReidSet("blind", (ReidRecord("f"),))
    assert merge_train([blind, two])[1:] == (ReidRecord("d", 0, 1), ReidRecord("e", 1, 0))
