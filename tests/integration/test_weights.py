"""One file of weights in and out of whole runs: another toolbox's evaluated and trained from, ours without a config."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from commands import ROOT, call, call_python

from mlt.config import get_cfg
from mlt.data.datasets import read_dataset
from mlt.evaluation.metrics import evaluate_features
from mlt.utils.checkpoint import load_checkpoint
from mlt.utils.feature_file import FeatureFile

pytestmark = pytest.mark.slow
BASE = {"conv1": "base.0", "bn1": "base.1", **{f"layer{i}": f"base.{i + 2}" for i in range(1, 5)}}


@pytest.fixture
def mmt(stage_one: Path, tmp_path: Path) -> Path:
    """The tensors of Stage I under MMT's names: to MMT they are a net without ReLU in the stem and with a mean pool."""
    state = {}
    for key, value in load_checkpoint(stage_one)["model"].items():
        if key.startswith("backbone."):
            state[re.sub(r"backbone\.(\w+)\.", lambda match: f"module.{BASE[match[1]]}.", key)] = value
        elif key.startswith("heads.bottleneck.0."):
            state[key.replace("heads.bottleneck.0.", "module.feat_bn.")] = value
    torch.save({"state_dict": state, "epoch": 3, "best_mAP": 0.5}, tmp_path / "model_best.pth.tar")
    return tmp_path / "model_best.pth.tar"


def test_evaluation_of_a_peer_follows_its_net(world: Path, stage_one: Path, mmt: Path, tmp_path: Path) -> None:
    words = ["--config-file", world / "mlt.yml", "--eval-only", "MODEL.WEIGHTS"]
    printed = call(tmp_path / "log", *words, mmt, "OUTPUT_DIR", tmp_path / "peer")
    assert "MODEL.BACKBONE.STEM_RELU is False, because the weights (names of MMT)" in printed
    assert "MODEL.HEADS.POOL_LAYER is GlobalAvgPool" in printed
    plain = load_checkpoint(stage_one)["model"]
    del plain["heads.pool_layer.p"]
    torch.save(plain, tmp_path / "plain.pth")  # without a config: nothing to follow but the pooling
    same = ["MODEL.BACKBONE.STEM_RELU", "False", "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool"]
    call(tmp_path / "log", *words, tmp_path / "plain.pth", "OUTPUT_DIR", tmp_path / "ours", *same)
    found = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("peer", "ours")]
    assert found[0] == found[1]


def test_stage_two_from_a_peer(world: Path, mmt: Path, tmp_path: Path) -> None:
    words = ["--config-file", world / "mlt.yml", "MODEL.WEIGHTS", mmt, "OUTPUT_DIR", tmp_path / "run"]
    printed = call(tmp_path / "log", *words, "SOLVER.MAX_EPOCH", 1, "PSEUDO_LABELS.ROUNDS", 1)
    assert "Stage I is skipped" in printed
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "run" / "config.yaml"))
    assert not cfg.MODEL.BACKBONE.STEM_RELU
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["config"]["MODEL.BACKBONE.STEM_RELU"] is False


def test_one_file_gives_the_runs_last_numbers(full_run: Path, world: Path, tmp_path: Path) -> None:
    """In a fresh interpreter: tools/extract.py with the checkpoint alone."""
    name = f"Market1501@{world}/station"
    words = [
        full_run / "model_final.pth",
        name,
        tmp_path / "out.npz",
        "--device",
        "cpu",
        "--opts",
        "TEST.IMS_PER_BATCH",
        16,
    ]
    assert "of Market1501@" in call_python(ROOT / "tools" / "extract.py", *words)
    found = FeatureFile.load(tmp_path / "out.npz")
    data = read_dataset(name, root="")
    assert len(found.features) == len(data.train) + len(data.query) + len(data.gallery)
    parts = [
        torch.from_numpy(array[found.rows(split)])
        for array in (found.features, found.pids, found.camids)
        for split in ("query", "gallery")
    ]
    wanted = json.loads((full_run / "results.json").read_text())["last"]["results"][name]["teacher"]
    assert evaluate_features(*parts) == pytest.approx(wanted, abs=1e-9)
