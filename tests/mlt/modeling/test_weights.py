"""Which file fits which model, and what the report says."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from mlt.modeling import build_model, load_weights
from mlt.modeling.backbones import ResNet
from mlt.modeling.weights import is_backbone_only, num_classes_of

BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.DSBN", False)
NO_TEACHER = ("MEAN_TEACHER.ENABLED", False)


@pytest.fixture
def model_of(cfg_of):
    """Models whose tensors are all different from those of every other."""

    def build(*options: object) -> nn.Module:
        model = build_model(cfg_of(*options))
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
        return model

    return build


def same(a: nn.Module, b: nn.Module) -> bool:
    state = b.state_dict()
    return all(torch.equal(value, state[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("options", [BASELINE, (), NO_TEACHER])
@pytest.mark.parametrize("wrap", [lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}, dict])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_own_checkpoint(model_of, tmp_path, options, wrap, prefix):
    trained, model = model_of(*options), model_of(*options)
    torch.save(wrap({prefix + key: value for key, value in trained.state_dict().items()}), tmp_path / "model.pth")
    report = load_weights(model, tmp_path / "model.pth")
    assert same(trained, model)
    assert (report.missing, report.unexpected, report.reshaped) == ((), (), ())
    assert set(report.loaded) == trained.state_dict().keys()


def test_stage_one_fills_both_halves_and_both_nets(model_of):
    stage_one, model = model_of(*BASELINE), model_of()
    report = load_weights(model, {"model": stage_one.state_dict()})
    norm = stage_one.backbone.layer1[0].bn1
    for nets in (model, model.teacher):
        for half in ("BN_S", "BN_T"):
            loaded = getattr(nets.backbone.layer1[0].bn1, half)
            assert torch.equal(loaded.weight, norm.weight)
            assert torch.equal(loaded.running_var, norm.running_var)
        assert torch.equal(nets.heads.pool_layer.p, stage_one.heads.pool_layer.p)
    assert report.unexpected == ("heads.weight",)
    assert {"heads.classifiers.0", "teacher.heads.classifiers.0", "teacher.ema_steps", "memory.queue"} <= set(
        report.missing
    )


def test_stage_two_into_a_plain_model_takes_the_teachers_target_norms(model_of):
    stage_two, model = model_of(), model_of(*BASELINE)
    report = load_weights(model, stage_two.state_dict())
    assert torch.equal(model.backbone.conv1.weight, stage_two.teacher.backbone.conv1.weight)
    norm = stage_two.teacher.backbone.bn1.BN_T
    assert torch.equal(model.backbone.bn1.running_mean, norm.running_mean)
    assert report.missing == ("heads.weight",)
    assert not any("BN_S" in key and "backbone." in key for key in report.unexpected)
    assert "teacher.heads.classifiers.0" in report.unexpected


def test_stage_two_into_a_student_takes_the_teacher(model_of):
    stage_two, model = model_of(), model_of(*NO_TEACHER)
    load_weights(model, stage_two.state_dict())
    assert same(model.backbone, stage_two.teacher.backbone)
    assert same(model.heads, stage_two.teacher.heads)
    assert same(model.memory, stage_two.memory)


def test_torchvision_backbone(model_of):
    theirs = torchvision.models.resnet18()
    model = model_of("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.WIDTH", 64)
    report = load_weights(model, theirs.state_dict())
    assert torch.equal(model.backbone.conv1.weight, theirs.conv1.weight)
    assert torch.equal(model.teacher.backbone.layer4[1].bn2.BN_S.weight, theirs.layer4[1].bn2.weight)
    assert report.unexpected == ()


def test_what_a_checkpoint_is_of(model_of):
    assert is_backbone_only(torchvision.models.resnet18().state_dict())
    for options in (BASELINE, (), NO_TEACHER):
        content = {"model": {f"module.{key}": value for key, value in model_of(*options).state_dict().items()}}
        assert not is_backbone_only(content)
        assert num_classes_of(content) == 6
    assert num_classes_of({"conv1.weight": torch.zeros(1)}) == 0


def test_report_lists_reshaped_tensors_and_leaves_them(model_of):
    trained, model = model_of(*BASELINE), model_of(*BASELINE, "MODEL.HEADS.NUM_CLASSES", 9)
    before = model.heads.weight.clone()
    report = load_weights(model, trained.state_dict())
    assert report.reshaped == (("heads.weight", (6, 64), (9, 64)),)
    assert torch.equal(model.heads.weight, before)
    assert "of another shape" in str(report)
    assert "weight [6, 64], here [9, 64]" in str(report)


def test_printed_report_is_short():
    report = load_weights(ResNet(101, 8), {"conv1.weight": torch.zeros(8, 3, 7, 7), "extra.a": torch.zeros(1)})
    assert "1 tensors loaded" in str(report)
    assert "more modules" in str(report)
    assert len(str(report).splitlines()) < 30


def test_counters_of_old_files_may_be_missing():
    net = ResNet(10, 8)
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert load_weights(ResNet(10, 8), state).missing == ()


class TestErrors:
    def test_no_file(self):
        with pytest.raises(FileNotFoundError, match="No checkpoint 'nowhere"):
            load_weights(ResNet(10, 8), "nowhere.pth")

    def test_nothing_fits(self, model_of):
        with pytest.raises(ValueError, match=r"it has a, b, .*the model has backbone\.conv1\.weight"):
            load_weights(model_of(*BASELINE), {"a": torch.zeros(1), "b": torch.zeros(1)})

    def test_no_tensor(self):
        with pytest.raises(ValueError, match="it has no tensors"):
            load_weights(ResNet(10, 8), {"model": {}})

    def test_objects_are_not_loaded(self, tmp_path):
        torch.save({"model": ResNet(10, 8)}, tmp_path / "object.pth")
        with pytest.raises(ValueError, match="could run code"):
            load_weights(ResNet(10, 8), tmp_path / "object.pth")
