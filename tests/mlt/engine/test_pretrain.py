from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from yacs.config import CfgNode

from mlt.config import get_cfg
from mlt.engine import pretrain
from mlt.engine.fingerprint import data_fingerprint
from mlt.engine.pretrain import ensure_pretrained, keys_not_inherited, pretrain_config
from mlt.structures import ReidRecord

SOURCE, TARGET = ([ReidRecord(f"/{name}/{i}.jpg", i) for i in range(3)] for name in "ab")
ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs" / "MLT").glob("*.yml"))


def config(path: Path = ROOT / "configs" / "MLT" / "duke2market.yml", **keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    cfg.freeze()
    return cfg


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_stage_two_config_has_its_stage_one(path):
    cfg = config(path)
    found = pretrain_config(cfg, 0)
    assert found.MODEL.META_ARCHITECTURE == "Baseline"
    assert not found.MODEL.DSBN
    assert not found.INPUT.REA.ENABLED
    assert found.DATASETS.NAMES == cfg.DATASETS.NAMES
    expected = cfg.DATASETS.TARGETS if cfg.PRETRAIN.TARGET_STATISTICS else ()
    assert expected == found.DATASETS.TARGETS
    assert found.MODEL.BACKBONE == cfg.MODEL.BACKBONE
    assert found.INPUT.SIZE_TRAIN == cfg.INPUT.SIZE_TRAIN


def test_paper_recipe():
    found = pretrain_config(config(), 0)
    solver = found.SOLVER
    assert (solver.MAX_EPOCH, solver.ITERS_PER_EPOCH, solver.WARMUP_ITERS, solver.STEPS) == (80, 200, 2000, [40, 70])
    assert found.DATASETS.TARGETS == ("Market1501",)  # for its BN statistics
    assert found.TEST.EVAL_PERIOD == 10


def test_what_stage_one_takes_over():
    keys = {"MODEL__DEVICE": "cpu", "MODEL__BACKBONE__DEPTH": "18x", "MODEL__BN_GROUP": 8, "DATALOADER__NUM_WORKERS": 3}
    found = pretrain_config(config(**keys, TEST__IMS_PER_BATCH=32, SOLVER__BASE_LR=9.0, SEED=5), 2)
    assert (found.MODEL.DEVICE, found.MODEL.BACKBONE.DEPTH, found.MODEL.BN_GROUP) == ("cpu", "18x", 8)
    assert (found.DATALOADER.NUM_WORKERS, found.TEST.IMS_PER_BATCH) == (3, 32)
    assert found.SOLVER.BASE_LR == 3.5e-4
    assert found.SEED == 2


def test_the_source_is_tested_first_and_no_set_twice():
    found = pretrain_config(config(DATASETS__TESTS="('Market1501', 'DukeMTMC')"), 0)
    assert found.DATASETS.TESTS == ("DukeMTMC", "Market1501")


def test_a_config_of_stage_two_is_no_stage_one():
    with pytest.raises(
        ValueError, match=r"PRETRAIN\.CONFIG_FILE .*duke2market\.yml trains MixtureLabelTransport, which"
    ):
        pretrain_config(config(PRETRAIN__CONFIG_FILE=str(ROOT / "configs" / "MLT" / "duke2market.yml")), 0)


def test_a_bare_backbone_becomes_its_start():
    found = pretrain_config(config(MODEL__WEIGHTS="resnet50.pth"), 0)
    assert (found.MODEL.BACKBONE.PRETRAIN, found.MODEL.BACKBONE.PRETRAIN_PATH) == (True, "resnet50.pth")
    assert found.MODEL.WEIGHTS == ""


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL__DEVICE": "cpu"},
        {"DATASETS__ROOT": "/data"},
        {"DATALOADER__NUM_WORKERS": 0},
        {"DATALOADER__CACHE_GB": 1.0},
        {"CUDNN_BENCHMARK": True},
        {"TEST__IMS_PER_BATCH": 32},
        {"DATASETS__TESTS": ()},
        {"SEED": 4},
        {"PSEUDO_LABELS__NUM_CLUSTERS": (5,)},
    ],
    ids=str,
)
def test_what_changes_no_weight_finds_the_same_stage_one(keys):
    assert pretrain_config(config(**keys), 0).OUTPUT_DIR == pretrain_config(config(), 0).OUTPUT_DIR


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL__BACKBONE__WITH_IBN": True},
        {"MODEL__BN_GROUP": 32},
        {"INPUT__SIZE_TRAIN": [128, 64]},
        {"DATALOADER__NUM_INSTANCE": 8},
        {"DATASETS__NAMES": ("MSMT17",)},
        {"DATASETS__TARGETS": ("MSMT17",)},
        {"PRETRAIN__TARGET_STATISTICS": False},
        {"MODEL__WEIGHTS": "resnet50.pth"},
    ],
    ids=str,
)
def test_a_changed_recipe_is_trained_anew(keys):
    assert pretrain_config(config(**keys), 0).OUTPUT_DIR != pretrain_config(config(), 0).OUTPUT_DIR


def test_each_recipe_file_and_seed_has_its_folder(tmp_path):
    (tmp_path / "pre.yml").write_text(f"_BASE_: {ROOT}/configs/Base-Pretrain.yml\nTEST:\n  EVAL_PERIOD: 5\n")
    folders = {
        pretrain_config(config(), 0).OUTPUT_DIR,
        pretrain_config(config(), 1).OUTPUT_DIR,
        pretrain_config(config(PRETRAIN__CONFIG_FILE=str(tmp_path / "pre.yml")), 0).OUTPUT_DIR,
    }
    assert len(folders) == 3
    assert all(folder.startswith("logs/MLT/duke2market/pretrain/seed") for folder in folders)


class TestEnsurePretrained:
    def test_given_weights_are_taken(self, tmp_path):
        (tmp_path / "a.pth").touch()
        cfg = config(PRETRAIN__WEIGHTS=[str(tmp_path / "a.pth")])
        assert ensure_pretrained(cfg, SOURCE, TARGET) == [str(tmp_path / "a.pth")]

    def test_finished_ones_are_found_and_each_seed_has_one(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pretrain, "Trainer", None)  # nothing is trained
        cfg = config(OUTPUT_DIR=str(tmp_path), PRETRAIN__SEEDS="(1, 2)")
        for seed in (1, 2):
            folder = Path(pretrain_config(cfg, seed, data_fingerprint(SOURCE, TARGET)).OUTPUT_DIR)
            folder.mkdir(parents=True)
            for name in ("model_best.pth", "model_final.pth"):
                (folder / name).touch()
        first, second = ensure_pretrained(cfg, SOURCE, TARGET)
        assert Path(first).parent.name.startswith("seed1-")
        assert Path(second).parent.name.startswith("seed2-")

    @pytest.fixture
    def trainer(self, monkeypatch) -> type:
        """In the place of the real one: draws a number, then is stopped or through."""

        class Trainer:
            draws: ClassVar[list[float]] = []
            stopping = False
            iter, max_iter = 1, 2

            def __init__(self, cfg: CfgNode) -> None:
                self.draws.append(float(torch.rand(())))
                Path(cfg.OUTPUT_DIR).mkdir(parents=True)
                self.cfg = cfg

            def resume(self) -> None: ...

            def train(self) -> None: ...

        monkeypatch.setattr(pretrain, "Trainer", Trainer)
        return Trainer

    def test_each_net_is_drawn_by_its_own_seed(self, tmp_path, trainer):
        ensure_pretrained(config(OUTPUT_DIR=str(tmp_path / "a"), PRETRAIN__SEEDS="(1, 2)"), SOURCE, TARGET)
        ensure_pretrained(config(OUTPUT_DIR=str(tmp_path / "b"), PRETRAIN__SEEDS="(2,)", SEED=7), SOURCE, TARGET)
        one, two, again = trainer.draws
        assert one != two
        assert two == again
        assert len(list(tmp_path.glob("a/pretrain/*/config.yaml"))) == 2

    def test_a_stop_in_stage_one_ends_the_run(self, tmp_path, trainer):
        trainer.stopping = True
        with pytest.raises(SystemExit) as left:
            ensure_pretrained(config(OUTPUT_DIR=str(tmp_path), PRETRAIN__SEEDS="(1, 2)"), SOURCE, TARGET)
        assert left.value.code == 143
        assert len(trainer.draws) == 1

    def test_another_data_set_is_not_taken_for_the_same(self, tmp_path, trainer):
        def folders(source, target, **keys):
            ensure_pretrained(config(OUTPUT_DIR=str(tmp_path), **keys), source, target)
            return {path.name for path in tmp_path.glob("pretrain/*")}

        assert len(folders(SOURCE, TARGET)) == 1
        assert len(folders(SOURCE[:2], TARGET)) == 2
        assert len(folders(SOURCE, TARGET[:2])) == 3
        one_domain = {"PRETRAIN__TARGET_STATISTICS": False}
        assert len(folders(SOURCE, TARGET, **one_domain)) == 4
        with pytest.raises(FileExistsError):  # the trainer above makes its folder: the target is not looked at
            folders(SOURCE, TARGET[:2], **one_domain)

    def test_keys_of_the_command_line_that_stage_one_does_not_take_are_named(
        self, tmp_path, trainer, caplog, monkeypatch
    ):
        cfg = config(OUTPUT_DIR=str(tmp_path))
        monkeypatch.setattr(logging.getLogger("mlt"), "propagate", True)
        ensure_pretrained(cfg, SOURCE, TARGET, ["SOLVER.BASE_LR", "MODEL.DEVICE", "SEED", "PSEUDO_LABELS.GROUP"])
        (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "does not take SOLVER.BASE_LR, SEED from the command line: it follows" in said
        assert said.endswith("Base-Pretrain.yml, and its seeds are PRETRAIN.SEEDS (0,)")


@pytest.mark.parametrize(
    ("key", "lost"),
    [
        ("SOLVER.AMP.ENABLED", True),
        ("SEED", True),
        ("TEST.EVAL_PERIOD", True),
        ("INPUT.REA.ENABLED", True),
        ("MODEL.HEADS.DROPOUT", True),
        ("TEST.IMS_PER_BATCH", False),
        ("MODEL.BACKBONE.DEPTH", False),
        ("DATASETS.NAMES", False),
        ("OUTPUT_DIR", False),
        ("LABEL_TRANSPORT.LAMBDA", False),
    ],
)
def test_keys_not_inherited(key, lost):
    assert keys_not_inherited([key]) == [key] * lost
