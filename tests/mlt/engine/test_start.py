from __future__ import annotations

import pytest
import torch
from yacs.config import CfgNode

from mlt.config import get_cfg
from mlt.engine import start
from mlt.engine.start import (
    build_bare_model,
    build_start_model,
    compile_backbones,
    complete_config,
    mixed_precision,
    parallelize,
    read_train_images,
)
from mlt.structures import UNKNOWN, ReidRecord

SOURCE = [ReidRecord(f"{i}.jpg", pid) for i, pid in enumerate([0, 0, 1, UNKNOWN, 2])]
TARGET = [ReidRecord(f"{i}.jpg") for i in range(7)]


def config(**keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.WIDTH", "8"])
    cfg.merge_from_list([str(word) for pair in keys.items() for word in (pair[0].replace("__", "."), pair[1])])
    cfg.freeze()
    return cfg


class TestCompleteConfig:
    def test_the_data_decide(self):
        cfg = complete_config(config(SOLVER__IMS_PER_BATCH=4), SOURCE, TARGET)
        assert (cfg.MODEL.HEADS.NUM_CLASSES, cfg.SOLVER.ITERS_PER_EPOCH) == (3, 2)
        assert cfg.is_frozen()

    def test_what_is_given_stays(self):
        given = config(MODEL__HEADS__NUM_CLASSES=9, SOLVER__ITERS_PER_EPOCH=50)
        assert complete_config(given, SOURCE, TARGET) == given

    def test_no_data(self):
        with pytest.raises(ValueError, match=r"DATASETS\.NAMES and DATASETS\.TARGETS are both empty"):
            complete_config(config(), (), ())


class TestReadTrainImages:
    @pytest.fixture
    def sets(self, tmp_path):
        (tmp_path / "crops").mkdir()
        (tmp_path / "crops" / "a.jpg").touch()
        (tmp_path / "half.csv").write_text("path,pid\na.jpg,7\nb.jpg,\n")
        return f"Folder@{tmp_path}/crops", f"csv@{tmp_path}/half.csv"

    def test_a_source_without_identities_is_named(self, sets):
        crops, table = sets
        message = r"DATASETS\.NAMES: Folder@.*/crops has no training images of known identity.*DATASETS\.TARGETS"
        for names in ((crops,), (table, crops)):
            with pytest.raises(ValueError, match=message):
                read_train_images(config(DATASETS__NAMES=names))

    def test_images_and_identities(self, sets):
        source, target = read_train_images(config(DATASETS__NAMES=sets[1:], DATASETS__TARGETS=sets))
        assert [record.pid for record in source] == [0, UNKNOWN]
        assert len(target) == 3

    def test_no_sets(self):
        assert read_train_images(config(DATASETS__NAMES=())) == ((), ())


class TestStartModel:
    @pytest.fixture
    def complete(self):
        return lambda **keys: config(MODEL__HEADS__NUM_CLASSES=3, **keys)

    @pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "PRETRAIN.WEIGHTS"])
    def test_weights_come_from_a_file_and_imagenet_ones_are_not_fetched(self, complete, tmp_path, monkeypatch, key):
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
        path = str(tmp_path / "a.pth")
        expected = build_bare_model(complete())
        torch.save({"model": expected.state_dict()}, path)
        words = {key.replace(".", "__"): path if key.startswith("MODEL") else [path]}
        found = build_start_model(complete(MODEL__BACKBONE__PRETRAIN=True, **words), ())
        for name, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], value)

    def test_memory_and_ramp_of_another_run_stay_behind(self, complete, tmp_path):
        words = {
            "MODEL__META_ARCHITECTURE": "MixtureLabelTransport",
            "MODEL__HEADS__NAME": "MixtureLabelHead",
            "PSEUDO_LABELS__NUM_CLUSTERS": "(4, 5)",
            "MEMORY__QUEUE_SIZE": 8,
        }
        trained = build_bare_model(complete(**words))
        trained.memory.queue_index.fill_(99)
        trained.memory.set_prototypes(torch.randn(trained.memory.prototypes.shape))
        trained.teacher.ema_steps.fill_(7)
        path = str(tmp_path / "run.pth")
        torch.save({"model": trained.state_dict()}, path)
        found = build_start_model(complete(MODEL__WEIGHTS=path, **words), ())
        assert torch.equal(found.backbone.conv1.weight, trained.backbone.conv1.weight)
        assert found.memory.queue_index.eq(-1).all()
        assert not found.memory.has_prototypes
        assert found.teacher.ema_steps == 0

    @pytest.mark.parametrize("stage", ["one net", "two nets", "a finished run"])
    def test_two_students_start_from_one_file_two_or_a_run(self, complete, tmp_path, stage):
        mutual = {
            "MODEL__META_ARCHITECTURE": "MutualMeanTeaching",
            "MODEL__HEADS__NAME": "MixtureLabelHead",
            "PSEUDO_LABELS__NUM_CLUSTERS": "(4,)",
            "PSEUDO_LABELS__GROUP": 0,
            "MEMORY__NAME": "''",
        }
        starts = [build_bare_model(complete(**(mutual if stage == "a finished run" else {}))) for _ in range(2)]
        paths = [str(tmp_path / f"{number}.pth") for number in range(2 if stage == "two nets" else 1)]
        for path, start_model in zip(paths, starts, strict=False):
            torch.save({"model": start_model.state_dict()}, path)
        found = build_start_model(complete(PRETRAIN__WEIGHTS=paths, **mutual), ())
        first = starts[0]
        second = {"one net": first, "two nets": starts[1], "a finished run": getattr(first, "peer", None)}[stage]
        for student, given in zip(found.branches, (first, second), strict=True):
            assert torch.equal(student.backbone.conv1.weight, given.backbone.conv1.weight)
            taught = given.teacher or given
            assert torch.equal(student.teacher.backbone.conv1.weight, taught.backbone.conv1.weight)

    def test_imagenet_weights_where_nothing_follows(self, complete, tmp_path):
        path = tmp_path / "gone.pth"
        cfg = complete(MODEL__BACKBONE__PRETRAIN=True, MODEL__BACKBONE__PRETRAIN_PATH=path)
        with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
            build_start_model(cfg, ())

    @pytest.mark.parametrize(("local_rank", "order"), [(0, ["build", "wait"]), (1, ["wait", "build"])])
    def test_one_process_of_a_machine_fetches_imagenet_weights(self, complete, monkeypatch, local_rank, order):
        happened = []
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        monkeypatch.setattr(start.comm, "active", lambda: True)
        monkeypatch.setattr(start.comm, "barrier", lambda: happened.append("wait"))
        monkeypatch.setattr(start, "build_model", lambda _: happened.append("build"))
        build_start_model(complete(MODEL__BACKBONE__PRETRAIN=True), ())
        assert happened == order


class TestMixedPrecision:
    def test_off_and_on(self):
        assert mixed_precision(config()) is None
        assert mixed_precision(config(SOLVER__AMP__ENABLED=True)) is torch.bfloat16
        assert mixed_precision(config(SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="float16")) is torch.float16

    def test_unknown(self):
        with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE must be one of bfloat16, float16, got 'half'"):
            mixed_precision(config(SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="half"))


def test_one_process_needs_no_wrapper():
    model = build_bare_model(config(MODEL__HEADS__NUM_CLASSES=3))
    assert parallelize(model) is model


@pytest.mark.parametrize(("losses", "searches"), [("('TripletLoss',)", True), ("('CrossEntropyLoss',)", False)])
def test_gradients_that_never_come_are_waited_for_in_vain(monkeypatch, losses, searches):
    given = {}
    monkeypatch.setattr(start.comm, "active", lambda: True)
    monkeypatch.setattr(start, "DistributedDataParallel", lambda _, **options: given.update(options))
    model = build_bare_model(config(MODEL__HEADS__NUM_CLASSES=3, MODEL__LOSSES__NAME=losses))
    parallelize(model, accumulates=True)
    assert (given["static_graph"], given["find_unused_parameters"]) == (False, searches)
    given.clear()
    parallelize(model)
    assert given["static_graph"]
    assert "find_unused_parameters" not in given


class TestCompile:
    @pytest.fixture
    def model(self):
        return build_bare_model(config(MODEL__HEADS__NUM_CLASSES=3, MODEL__BACKBONE__DEPTH="10x"))

    @pytest.mark.parametrize("backend", ["eager", "relu_compile_error_TESTING_ONLY"])
    def test_features_stay_with_what_is_compiled_and_what_cannot_be(self, model, backend):
        images = torch.randint(256, (4, 3, 32, 16), dtype=torch.uint8)
        expected, names = model.eval()(images), list(model.state_dict())
        with torch._dynamo.config.patch(suppress_errors=False):  # as it was, afterwards
            compile_backbones(model, backend)
            torch.testing.assert_close(model(images), expected)
        assert list(model.state_dict()) == names
        assert model.backbone._compiled_call_impl is not None

    def test_off(self, model):
        compile_backbones(model, "")
        assert model.backbone._compiled_call_impl is None

    def test_unknown(self, model):
        with pytest.raises(ValueError, match=r"MODEL\.COMPILE must be '' or a backend .*inductor.*, got 'gcc'"):
            compile_backbones(model, "gcc")
