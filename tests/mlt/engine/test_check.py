from __future__ import annotations

import logging

import pytest
import torch
from yacs.config import CfgNode

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg
from mlt.engine import run as program
from mlt.engine.check import check_run
from mlt.structures import ReidRecord
from mlt.utils import comm, log

SOURCE = [ReidRecord(f"{i}.jpg", pid=i // 4, camid=0) for i in range(64)]
TARGET = [ReidRecord(f"{i}.jpg", camid=0) for i in range(40)]


def config(**keys: object) -> CfgNode:
    cfg = get_cfg()
    words = {
        "MODEL__META_ARCHITECTURE": "MixtureLabelTransport",
        "MODEL__HEADS__NAME": "MixtureLabelHead",
        "MODEL__DSBN": True,
        "MODEL__BACKBONE__DEPTH": "18x",
        "MODEL__BACKBONE__PRETRAIN": True,  # which must not be fetched
        "PSEUDO_LABELS__NUM_CLUSTERS": (20, 30),
        "PSEUDO_LABELS__ROUNDS": 2,
        "DATALOADER__NUM_WORKERS": 0,
        "PRETRAIN__CONFIG_FILE": "stage one.yml",
        "DATASETS__TARGETS": ("Folder@/crops",),
        **keys,
    }
    cfg.merge_from_list([word for key, value in words.items() for word in (key.replace("__", "."), value)])
    cfg.freeze()
    return cfg


def test_a_sound_config_passes_without_weights_or_random_numbers(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    before = torch.get_rng_state()
    check_run(config(), SOURCE, TARGET)
    assert torch.equal(torch.get_rng_state(), before)


MISTAKES = [
    ("PSEUDO_LABELS.GROUP", 2, r"PSEUDO_LABELS\.GROUP 2 is none of the 2 groups"),
    ("PSEUDO_LABELS.SCHEDULE", "cold", r"PSEUDO_LABELS\.SCHEDULE must be 'restart' or 'warm', got 'cold'"),
    ("PSEUDO_LABELS.NUM_CLUSTERS", (0, 5), r"needs at least one classifier with rows"),
    ("MODEL.HEADS.MAX_CLUSTERS", 25, r"NUM_CLUSTERS \(20, 30\) does not fit into MODEL\.HEADS\.MAX_CLUSTERS 25"),
    ("MODEL.HEADS.INIT", "zero", r"MODEL\.HEADS\.INIT must be one of normal, centroid, got 'zero'"),
    ("MODEL.HEADS.NAME", "MixtureHead", r"No head 'MixtureHead'\. Did you mean 'MixtureLabelHead'"),
    ("MODEL.META_ARCHITECTURE", "MLT", r"No meta-architecture 'MLT'"),
    ("MODEL.BACKBONE.NAME", "Resnet", r"No backbone 'Resnet'"),
    ("MODEL.LOSSES.NAME", ("CrossEntropy",), r"No loss 'CrossEntropy'"),
    ("MODEL.LOSSES.TRI.MARGIN", -1.0, r"MODEL\.LOSSES\.TRI\.MARGIN\) must be >= 0, got -1"),
    ("MEMORY.NAME", "Bank", r"No memory 'Bank'"),
    ("MEMORY.FEATURE", "pooled", r"MEMORY\.FEATURE must be one of projection, embedding, got 'pooled'"),
    ("MEMORY.MARGIN", 1.5, r"margin must be in \(0, 1\), got 1\.5"),
    ("MEAN_TEACHER.MOMENTUM", 1.0, r"MEAN_TEACHER\.MOMENTUM must be in \[0, 1\)"),
    ("SOLVER.OPT", "Adan", r"No optimizer 'Adan'\. Did you mean 'Adam'"),
    ("SOLVER.BASE_LR", 0.0, r"SOLVER\.BASE_LR must be > 0, got 0"),
    ("SOLVER.SCHED", "Step", r"No learning-rate schedule 'Step'"),
    ("SOLVER.IMS_PER_BATCH", 30, r"SOLVER\.IMS_PER_BATCH 30 must be a multiple of 4"),
    ("SOLVER.IMS_PER_BATCH", 128, r"16 identities with images, but a batch needs 32"),
    ("SOLVER.ACCUMULATION", 3, r"SOLVER\.ACCUMULATION 3 must be a divisor of the 16 identities .* 64 / 1 .*INSTANCE 4"),
    ("SOLVER.ACCUMULATION", 0, r"SOLVER\.ACCUMULATION 0 must be a divisor"),
    ("MODEL.BN_GROUP", 24, r"MODEL\.BN_GROUP 24 does not divide the 64 images .* SOLVER\.IMS_PER_BATCH 64 / 1"),
    ("SOLVER.IMS_PER_BATCH", 0, r"SOLVER\.IMS_PER_BATCH must be >= 1, got 0"),
    ("DATALOADER.NUM_INSTANCE", 0, r"DATALOADER\.NUM_INSTANCE must be >= 1, got 0"),
    ("DATALOADER.NUM_WORKERS", -1, r"DATALOADER\.NUM_WORKERS must be >= 0, got -1"),
    ("TEST.IMS_PER_BATCH", 0, r"TEST\.IMS_PER_BATCH must be >= 1, got 0"),
    ("INPUT.SIZE_TRAIN", 64, r"INPUT\.SIZE_TRAIN must be a height and a width in pixels, got \[64\]"),
    ("INPUT.SIZE_TEST", (0, 0), r"INPUT\.SIZE_TEST must be a height and a width in pixels, got \[0, 0\]"),
    ("INPUT.FLIP.PROB", 50.0, r"INPUT\.FLIP\.PROB must be between 0 and 1, got 50\.0"),
    ("INPUT.CJ.HUE", 5.0, r"INPUT\.CJ\.HUE must be between 0 and 0\.5, got 5\.0"),
    ("INPUT.CJ.CONTRAST", -1.0, r"INPUT\.CJ\.CONTRAST must be between 0 and inf, got -1\.0"),
    ("INPUT.PADDING.SIZE", -3, r"INPUT\.PADDING\.SIZE must be between 0 and inf, got -3"),
    ("INPUT.REA.VALUE", (1, 2), r"INPUT\.REA\.VALUE must be red, green and blue in 0\.\.255, got \[1, 2\]"),
    ("INPUT.REA.VALUE", (0, 0, 300), r"INPUT\.REA\.VALUE must be red, green and blue in 0\.\.255"),
    ("MODEL.PIXEL_MEAN", (0.0, 0.0), r"PIXEL_MEAN and PIXEL_STD must have a value for each of R, G, B.*\[0\.0, 0\.0\]"),
    ("MODEL.PIXEL_STD", (1.0, 0.0, 1.0), r"and the latter > 0; got .* and \[1\.0, 0\.0, 1\.0\]"),
    ("TEST.RERANK.K1", 0, r"TEST\.RERANK\.K1 must be >= 1, got 0"),
    ("PRETRAIN.SEEDS", (1, 2), r"PRETRAIN\.SEEDS has 2 entries, \(1, 2\), but MixtureLabelTransport starts from 1"),
    ("PRETRAIN.WEIGHTS", ["a.pth", "b.pth"], r"PRETRAIN\.WEIGHTS has 2 entries"),
]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES, ids=[f"{key} {value}" for key, value, _ in MISTAKES])
def test_mistakes_are_named(key, value, message):
    with pytest.raises((ValueError, KeyError), match=message):
        check_run(config(**{key: value}), SOURCE, TARGET)


def test_mixed_precision():
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE must be one of bfloat16, float16, got 'half'"):
        check_run(config(SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="half"), SOURCE, TARGET)


def test_the_share_of_a_process_must_hold_whole_groups(monkeypatch):
    check_run(config(MODEL__BN_GROUP=64), SOURCE, TARGET)
    monkeypatch.setattr(comm, "world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"BN_GROUP 64 .* the 16 images .*IMS_PER_BATCH 64 / 4 process"):
        check_run(config(MODEL__BN_GROUP=64), SOURCE, TARGET)


def test_given_weights_that_are_not_there():
    with pytest.raises(FileNotFoundError, match=r"PRETRAIN.WEIGHTS names 'gone.pth'.*leave it empty"):
        check_run(config(PRETRAIN__WEIGHTS=["gone.pth"]), SOURCE, TARGET)


def test_no_target():
    with pytest.raises(ValueError, match=r"labels target images, but DATASETS\.TARGETS is empty"):
        check_run(config(DATASETS__TARGETS=()), SOURCE, ())


def test_supervised_training_is_checked_too():
    keys = {"MODEL__META_ARCHITECTURE": "Baseline", "MODEL__HEADS__NAME": "EmbeddingHead", "MODEL__DSBN": False}
    check_run(config(**keys), SOURCE, ())
    with pytest.raises(KeyError, match="No optimizer 'Adan'"):
        check_run(config(**keys, SOLVER__OPT="Adan"), SOURCE, ())


class TestWarnings:
    @pytest.fixture
    def said(self, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("mlt"), "propagate", True)
        monkeypatch.setattr(log, "_said", set())

        def check(**keys):
            check_run(config(**keys), SOURCE, TARGET)
            return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

        return check

    def test_steps_beyond_the_run(self, said):
        assert said(SOLVER__STEPS=[40, 90]) == []
        (line,) = said(SOLVER__STEPS=[80, 90])
        assert "SOLVER.STEPS [80, 90] lie beyond SOLVER.MAX_EPOCH 80" in line

    def test_a_constant_rate_needs_none(self, said):
        assert said(SOLVER__STEPS=[]) == []

    def test_rounds_beyond_the_run(self, said):
        assert said(SOLVER__MAX_EPOCH=80, PSEUDO_LABELS__ROUNDS=3, PSEUDO_LABELS__PERIOD=39) == []
        (line,) = said(SOLVER__MAX_EPOCH=78, PSEUDO_LABELS__ROUNDS=3, PSEUDO_LABELS__PERIOD=39)
        assert "Only 2 of PSEUDO_LABELS.ROUNDS 3 begin within SOLVER.MAX_EPOCH 78" in line

    def test_labels_from_classifiers_that_nothing_trains(self, said):
        (line,) = said(MODEL__LOSSES__NAME=("TripletLoss",))
        assert "trains the classifiers, from which LABEL_TRANSPORT takes its labels: add CrossEntropyLoss" in line
        assert said(MODEL__LOSSES__NAME=("TripletLoss",), LABEL_TRANSPORT__ENABLED=False) == [line]


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"PSEUDO_LABELS__GROUP": 2}, r"PSEUDO_LABELS\.GROUP 2"), ({"SOLVER__OPT": "Adan"}, "No optimizer")],
)
def test_stage_one_is_not_started(tmp_path, monkeypatch, keys, message):
    def started(*_: object) -> None:
        raise AssertionError("Stage I was started")

    monkeypatch.setattr(program, "setup_logger", lambda *_, **__: None)  # it would stay after the test
    monkeypatch.setattr(program, "ensure_pretrained", started)
    monkeypatch.setattr(program, "read_train_images", lambda _: (SOURCE, TARGET))
    words = {"OUTPUT_DIR": str(tmp_path), "MODEL__DEVICE": "cpu"}
    with pytest.raises((ValueError, KeyError), match=message):
        program.run(config(**words, **keys))
    with pytest.raises(AssertionError, match="Stage I was started"):
        program.run(config(**words))
