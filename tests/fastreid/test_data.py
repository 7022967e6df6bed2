"""Data sets by name and by path in FastReID's registry, batches, and the two toolboxes' evaluation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.evaluation import ReidEvaluator
from torch.nn.functional import normalize

from mlt.adapters.fastreid import MLTTrainer, read_train, register_datasets
from mlt.adapters.fastreid.data import load_all, load_identities
from mlt.evaluation.metrics import evaluate_features
from mlt.structures import UNKNOWN

MakeConfig = Callable[..., Any]


def registered(make_cfg: MakeConfig, out: Path, name: str, **options: Any) -> Any:
    register_datasets(make_cfg("MLT", out, {"DATASETS.TARGETS": (name,), "DATASETS.CAMERA_REGEX": "c(\\d)"}))
    return DATASET_REGISTRY.get(name)(root="nowhere", **options)


def test_a_known_layout_in_any_folder(make_cfg: MakeConfig, world: Path, tmp_path: Path) -> None:
    name = f"Market1501@{world}/campus"
    found = registered(make_cfg, tmp_path, name)
    again = registered(make_cfg, tmp_path, name, combineall=True)
    assert len({pid for _, pid, _ in found.train}) == 8
    assert all(isinstance(pid, str) and isinstance(camid, str) for _, pid, camid in found.train)
    assert all(isinstance(pid, int) and isinstance(camid, int) for _, pid, camid in found.query + found.gallery)
    assert len(again.train) == len(found.train) + len(found.query) + len(found.gallery)


def test_a_folder_has_cameras_and_nobody(make_cfg: MakeConfig, world: Path, tmp_path: Path) -> None:
    name = f"Folder@{world}/station/bounding_box_train"
    registered(make_cfg, tmp_path, name)
    records = read_train((name,))
    assert len(records) == 48
    assert {record.pid for record in records} == {UNKNOWN}
    assert {record.camid for record in records} == {0, 1, 2}


def test_each_config_has_its_own_expression_for_cameras(make_cfg: MakeConfig, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"a{number % 2}b{number % 3}_{number}.jpg").touch()
    name, cameras = f"Folder@{tmp_path}", []
    for expression in ("a(\\d)", "b(\\d)"):
        register_datasets(make_cfg("MLT", tmp_path, {"DATASETS.TARGETS": (name,), "DATASETS.CAMERA_REGEX": expression}))
        cameras.append(len({record.camid for record in read_train((name,))}))
    assert cameras == [2, 3]


def test_a_table_with_unknown_cameras_loses_no_match(make_cfg: MakeConfig, world: Path, tmp_path: Path) -> None:
    files = sorted((world / "station/bounding_box_train").iterdir())[:12]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = [(path, path.name[:4], "train" if n < 6 else "query") for n, path in enumerate(files)]
        csv.writer(file).writerows([("path", "pid", "split"), *rows])
    found = registered(make_cfg, tmp_path, f"csv@{tmp_path}/t.csv")
    assert {camid for _, _, camid in found.train} == {"unknown"}
    cameras = [camid for _, _, camid in found.query]
    assert len(set(cameras)) == 6
    assert max(cameras) < 0
    assert read_train((f"csv@{tmp_path}/t.csv",))[0].camid == UNKNOWN


def test_sets_with_random_galleries_are_trained_on_but_not_evaluated(make_cfg: MakeConfig, tmp_path: Path) -> None:
    for folder in ("image", "train_test_split"):
        (tmp_path / folder).mkdir()
    for number in range(8):
        (tmp_path / f"image/{number:07}.jpg").touch()
    for name, numbers in {"train_list": range(4), "test_list_800": range(4, 8)}.items():
        text = "".join(f"{number:07} {number // 2}\n" for number in numbers)
        (tmp_path / f"train_test_split/{name}.txt").write_text(text)
    found = registered(make_cfg, tmp_path, f"SmallVehicleID@{tmp_path}")
    assert len(found.train) == 4
    with pytest.raises(ValueError, match="several random galleries"):
        _ = found.query


def test_two_sets_share_no_identity_and_no_camera(make_cfg: MakeConfig, world: Path, tmp_path: Path) -> None:
    names = tuple(f"Market1501@{world}/{domain}" for domain in ("campus", "station"))
    register_datasets(make_cfg("MLT", tmp_path, {"DATASETS.NAMES": names}))
    records = read_train(names)
    halves = [records[:48], records[48:]]
    for column in ("pid", "camid"):
        first, second = ({getattr(record, column) for record in half} for half in halves)
        assert not first & second
        assert first | second == set(range(len(first) + len(second)))


def test_every_image_once_and_in_order(make_cfg: MakeConfig, world: Path, tmp_path: Path) -> None:
    cfg = make_cfg("MLT", tmp_path, {"TEST.IMS_PER_BATCH": 20})
    register_datasets(cfg)
    records = read_train(cfg.DATASETS.TARGETS)
    batches = list(load_all(cfg, records))
    assert [len(batch["images"]) for batch in batches] == [20, 20, 8]
    assert torch.cat([batch["indices"] for batch in batches]).tolist() == list(range(48))
    assert [path for batch in batches for path in batch["img_paths"]] == [record.path for record in records]


def test_workers_start_at_once(make_cfg: MakeConfig, tmp_path: Path) -> None:
    cfg = make_cfg("MLT", tmp_path, {"DATALOADER.NUM_WORKERS": 1})
    register_datasets(cfg)
    records = read_train(cfg.DATASETS.TARGETS)
    endless = load_identities(cfg, records, torch.arange(40), torch.arange(40) % 5)
    tests, _ = MLTTrainer.build_test_loader(cfg, cfg.DATASETS.TESTS[0])
    contexts = [loader.multiprocessing_context for loader in (load_all(cfg, records), endless, tests)]
    assert [context.get_start_method() for context in contexts] == ["fork"] * 3


def test_outliers_are_never_drawn(make_cfg: MakeConfig, tmp_path: Path) -> None:
    cfg = make_cfg("MLT", tmp_path)
    register_datasets(cfg)
    records = read_train(cfg.DATASETS.TARGETS)
    positions = torch.arange(10, 40)
    batches = iter(load_identities(cfg, records, positions, torch.arange(30) % 5))
    for _ in range(4):
        batch = next(batches)
        assert torch.equal(batch["targets"], (batch["indices"] - 10) % 5)
        assert 10 <= int(batch["indices"].min()) <= int(batch["indices"].max()) < 40
        assert batch["targets"].bincount().max() == 4


def test_evaluators_agree(make_cfg: MakeConfig, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    pids, camids = torch.from_numpy(random.integers(0, 20, 260)), torch.from_numpy(random.integers(0, 4, 260))
    features = normalize(torch.from_numpy(random.normal(size=(20, 16))).float()[pids] + 1.5 * torch.randn(260, 16))
    evaluator = ReidEvaluator(make_cfg("MLT", tmp_path), num_query=60)
    evaluator.process({"targets": pids[:100], "camids": camids[:100]}, features[:100])
    evaluator.process({"targets": pids[100:], "camids": camids[100:]}, features[100:])
    theirs = evaluator.evaluate()
    ours = evaluate_features(features[:60], features[60:], pids[:60], pids[60:], camids[:60], camids[60:])
    assert 10 < ours["mAP"] < 90
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-5), name
