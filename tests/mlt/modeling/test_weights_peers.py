"""Checkpoints of other toolboxes: miniatures of their own nets, written after their public code, give the features that
our model must give with their file. Nothing here uses the importer's tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import mlt
from mlt.modeling import build_model, load_weights
from mlt.modeling.backbones import ResNet
from mlt.modeling.net_config import follow_weights
from mlt.modeling.weights import is_backbone_only

WIDTHS = (8, 16, 32, 64)
NUM_CLASSES = 5
TOLERANCE = 3e-4  # features of different images differ by 5e-2 on average, those of another stem by 1e-2 at least


# --- what the toolboxes share ------------------------------------------------------------------------------------


class IBN(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.half = planes // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, [self.half, x.shape[1] - self.half], 1)
        return torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), 1)


class GeM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 2.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(self.p), 1).pow(1.0 / self.p)


class NonLocal(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        g, theta = (f(x).view(len(x), 1, -1).permute(0, 2, 1) for f in (self.g, self.theta))
        attention = torch.matmul(theta, self.phi(x).view(len(x), 1, -1))
        y = torch.matmul(attention / attention.size(-1), g).permute(0, 2, 1).contiguous()
        return self.W(y.view(len(x), 1, *x.shape[2:])) + x


class HalvesBN(nn.Module):
    """DSBN of SpCL and UDAStrongBaseline."""

    def __init__(self, norm: nn.Module, half: int) -> None:
        super().__init__()
        self.half = half
        self.BN_S, self.BN_T = (type(norm)(norm.num_features) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.BN_S, self.BN_T)[self.half](x)


class NumberedBN(nn.Module):
    """DSBN of OpenUnReID, one for each set of TRAIN.datasets; in the configs it ships the target is the first."""

    def __init__(self, norm: nn.Module, half: int) -> None:
        super().__init__()
        self.half = half
        self.dsbn = nn.ModuleList([type(norm)(norm.num_features) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.dsbn[self.half](x)


def convert(module: nn.Module, kind: type[nn.Module], half: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
            setattr(module, name, kind(child, half))
        else:
            convert(child, kind, half)


def layer(number: int, ibn: bool) -> nn.Sequential:
    into, out, stride = WIDTHS[max(number - 1, 0)], WIDTHS[number], (1, 2, 2, 1)[number]
    shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if number else None
    block = BasicBlock(into, out, stride, shortcut)
    if ibn and number < 3:
        block.bn1 = IBN(out)
    return nn.Sequential(block)


def trunk(ibn: bool = False) -> dict[str, nn.Module]:
    return {
        "conv1": nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False),
        "bn1": nn.BatchNorm2d(WIDTHS[0]),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        **{f"layer{i + 1}": layer(i, ibn) for i in range(4)},
    }


# --- the toolboxes -----------------------------------------------------------------------------------------------


class SequentialNet(nn.Module):
    """MMT: `base` without a ReLU. SpCL, ClusterContrast, and MMT's IBN nets: with it."""

    def __init__(self, relu: bool, pool: nn.Module | None = None, ibn: bool = False, classes: int = 0) -> None:
        super().__init__()
        parts = trunk(ibn)
        if not relu:
            del parts["relu"]
        self.base = nn.Sequential(*parts.values())
        self.gap = pool or nn.AdaptiveAvgPool2d(1)
        self.feat_bn = nn.BatchNorm1d(WIDTHS[-1])
        if classes:
            self.classifier = nn.Linear(WIDTHS[-1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.feat_bn(self.gap(self.base(x)).flatten(1)))


class StrongBaseline(nn.Module):
    """UDAStrongBaseline: a short `base` without ReLU, layers beside it, non-local blocks, a memory head."""

    def __init__(self) -> None:
        super().__init__()
        parts = trunk()
        self.base = nn.Sequential(parts["conv1"], parts["bn1"], parts["maxpool"])
        for i in range(1, 5):
            setattr(self, f"layer{i}", parts[f"layer{i}"])
        self.NL_2, self.NL_3 = (nn.ModuleList([NonLocal(WIDTHS[i])]) for i in (1, 2))
        self.gap = GeM()
        self.memorybank_fc = nn.Linear(WIDTHS[-1], WIDTHS[-1])
        self.mbn = nn.BatchNorm1d(WIDTHS[-1])
        self.feat_bn = nn.BatchNorm1d(WIDTHS[-1])
        self.classifier0_5 = nn.Linear(WIDTHS[-1], 5, bias=False)
        self.classifier1_7 = nn.Linear(WIDTHS[-1], 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.NL_2[0](self.layer2(self.layer1(self.base(x))))
        x = self.layer4(self.NL_3[0](self.layer3(x)))
        return F.normalize(self.feat_bn(self.gap(x).flatten(1)))


class TwoDepths(StrongBaseline):
    """UDAStrongBaseline's `_multi` nets: a neck and a classifier on layer3 as well."""

    def __init__(self) -> None:
        super().__init__()
        self.feat_bn_3 = nn.BatchNorm1d(WIDTHS[2])
        self.classifier3_0_5 = nn.Linear(WIDTHS[2], 5, bias=False)

    def shallow(self, x: Tensor) -> Tensor:
        x = self.NL_2[0](self.layer2(self.layer1(self.base(x))))
        return self.classifier3_0_5(self.feat_bn_3(self.gap(self.NL_3[0](self.layer3(x))).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        self.shallow(x)  # whose batch norm has statistics, too
        return super().forward(x)


class OpenUnReID(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for name, module in trunk().items():
            self.backbone.add_module(name, module)
        self.global_pooling = GeM()
        self.head = nn.Module()
        self.head.feat_bn = nn.BatchNorm1d(WIDTHS[-1])
        self.classifier = nn.Linear(WIDTHS[-1], NUM_CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head.feat_bn(self.global_pooling(self.backbone(x)).flatten(1)))


class MeanNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.mean_net = OpenUnReID(), OpenUnReID()

    def forward(self, x: Tensor) -> Tensor:
        return self.mean_net(x)


class FastReID(nn.Module):
    """Max-pool in ceil mode without padding; a BNNeck for maps of one pixel."""

    def __init__(self, ibn: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Module()
        for name, module in trunk(ibn).items():
            self.backbone.add_module(name, module)
        self.backbone.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.backbone.NL_2, self.backbone.NL_3 = (nn.ModuleList([NonLocal(WIDTHS[i])]) for i in (1, 2))
        self.heads = nn.Module()
        self.heads.pool_layer = GeM()
        self.heads.bottleneck = nn.Sequential(nn.BatchNorm2d(WIDTHS[-1]))
        self.heads.weight = nn.Parameter(torch.randn(NUM_CLASSES, WIDTHS[-1]))
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        net = self.backbone
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        x = net.layer4(net.NL_3[0](net.layer3(net.NL_2[0](net.layer2(x)))))
        return F.normalize(self.heads.bottleneck(self.heads.pool_layer(x))[..., 0, 0])


def with_dsbn(net: nn.Module, kind: type[nn.Module], half: int = 1) -> nn.Module:
    convert(net, kind, half)
    return net


def best(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 7, "best_mAP": np.float64(0.7)}


def old_names(state: dict[str, Tensor]) -> dict[str, Any]:
    names = (("heads.bottleneck.0.", "heads.bnneck."), ("heads.weight", "heads.classifier.weight"))
    for new, old in names:
        state = {k.replace(new, old): v for k, v in state.items()}
    return {"model": state, "epoch": 3}


# name -> (its toolbox, its net, what its trainer writes)
Case = tuple[str, Callable[[], nn.Module], Callable[[dict[str, Tensor]], dict[str, Any]]]
CASES: dict[str, Case] = {
    "MMT": ("MMT", lambda: SequentialNet(relu=False, classes=NUM_CLASSES), best),
    "MMT IBN": ("SpCL", lambda: SequentialNet(relu=True, ibn=True, classes=NUM_CLASSES), best),
    "SpCL": ("SpCL", lambda: with_dsbn(SequentialNet(relu=True), HalvesBN), best),
    "SpCL IBN": ("SpCL", lambda: with_dsbn(SequentialNet(relu=True, ibn=True), HalvesBN), best),
    "ClusterContrast": ("ClusterContrast", lambda: SequentialNet(relu=True, pool=GeM()), best),
    "UDAStrongBaseline I": ("UDAStrongBaseline", StrongBaseline, best),
    "UDAStrongBaseline II": ("UDAStrongBaseline", lambda: with_dsbn(StrongBaseline(), HalvesBN), best),
    "OpenUnReID": ("OpenUnReID", OpenUnReID, lambda s: {"epoch": 1, "best_mAP": 0.5, "state_dict": s}),
    "OpenUnReID DSBN": ("OpenUnReID", lambda: with_dsbn(MeanNet(), NumberedBN, 0), lambda s: {"state_dict": s}),
    "OpenUnReID MMT": ("OpenUnReID", MeanNet, lambda s: {"state_dict_1": s, "state_dict_2": {}}),
    "FastReID": ("FastReID", FastReID, lambda s: {"model": s, "epoch": 3, "metric": np.float64(0.5)}),
    "FastReID IBN, old names": ("FastReID", lambda: FastReID(ibn=True), old_names),
}
DOMAINS: dict[str, Case] = {
    "SpCL": ("SpCL", lambda: with_dsbn(SequentialNet(relu=True), HalvesBN, 0), best),
    "UDAStrongBaseline II": ("UDAStrongBaseline", lambda: with_dsbn(StrongBaseline(), HalvesBN, 0), best),
    "OpenUnReID": ("OpenUnReID", lambda: with_dsbn(OpenUnReID(), NumberedBN, 1), lambda s: {"state_dict": s}),
}


def randomized(net: nn.Module, images: Tensor) -> nn.Module:
    """Batch norms that nobody could mistake for others, and features that depend on the image."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.InstanceNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1.5, 0.5)  # below zero, so that a missing ReLU shows
            module.momentum = None
    features_of(net.train(), images)  # running statistics are this batch's
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    """Coarse patches: fine noise would average out, and all features would be alike."""
    patches = torch.randint(0, 256, (4, 3, 4, 2), dtype=torch.uint8)
    return patches.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@torch.no_grad()
def features_of(net: nn.Module, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return net((images / 255.0 - mean) / std)


def saved(case: Case, images: Tensor, path: Path) -> tuple[dict[str, Any], Tensor]:
    """Writes the file; returns its content and the features of its net."""
    net = randomized(case[1](), images)
    content = case[2](net.state_dict())
    torch.save(content, path)
    return content, features_of(net, images)


@pytest.mark.parametrize("name", CASES)
def test_one_file_is_enough(name: str, images: Tensor, tmp_path: Path) -> None:
    _, expected = saved(CASES[name], images, tmp_path / "best.pth")
    model = mlt.load_model(tmp_path / "best.pth")
    torch.testing.assert_close(model(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", DOMAINS)
def test_source_batch_norms(name: str, images: Tensor, tmp_path: Path) -> None:
    _, expected = saved(DOMAINS[name], images, tmp_path / "best.pth")
    source, target = (mlt.load_model(tmp_path / "best.pth", domain=domain)(images) for domain in ("source", "target"))
    torch.testing.assert_close(source, expected, rtol=0, atol=TOLERANCE)
    assert (target - expected).abs().max() > 1e-2


def test_the_guess_at_numbered_norms_is_told(images: Tensor, tmp_path: Path, cfg_of, caplog) -> None:
    content, _ = saved(DOMAINS["OpenUnReID"], images, tmp_path / "best.pth")
    load_weights(build_model(follow_weights(cfg_of("MEMORY.NAME", ""), content)), tmp_path / "best.pth")
    assert "best.pth numbers its batch norms: the first is taken for the target's" in caplog.text
    caplog.clear()
    content, _ = saved(CASES["SpCL"], images, tmp_path / "spcl.pth")
    load_weights(build_model(follow_weights(cfg_of("MEMORY.NAME", ""), content)), content)
    assert "numbers" not in caplog.text


@pytest.mark.parametrize("name", CASES)
def test_start_of_stage_two(name: str, images: Tensor, tmp_path: Path, cfg_of) -> None:
    """Student and teacher of a DSBN model both start as the peer's net, whatever stem the config had."""
    content, expected = saved(CASES[name], images, tmp_path / "best.pth")
    non_local = ("MODEL.BACKBONE.WITH_NL", "UDA" in name or "Fast" in name)
    options = (*non_local, "MODEL.BACKBONE.WITH_IBN", "IBN" in name, "MEMORY.NAME", "")
    model = build_model(follow_weights(cfg_of(*options), content))
    report = load_weights(model, tmp_path / "best.pth")
    assert CASES[name][0] in report.origin
    assert report.conflicts == () == report.reshaped
    left = {key for key in report.missing if "classifiers." not in key}
    assert left <= {"heads.active", "teacher.heads.active", "teacher.ema_steps"}
    has_student = name in ("OpenUnReID DSBN", "OpenUnReID MMT")  # files of two nets that differ
    for net in model.nets:
        found = model.eval().evaluate(images, net)
        is_peers = not has_student or net == "teacher"
        assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE) == is_peers


def test_the_head_on_layer3_comes_along(images: Tensor, tmp_path: Path, method_of) -> None:
    net = randomized(TwoDepths(), images)
    torch.save(best(net.state_dict()), tmp_path / "best.pth")
    clusters = ("PSEUDO_LABELS.NUM_CLUSTERS", (5,), "PSEUDO_LABELS.GROUP", 0)
    options = ("MODEL.BACKBONE.WITH_NL", True, "MODEL.BACKBONE.STEM_RELU", False, *clusters)
    model = method_of("UncertaintyGuided", *options, "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP").eval()
    report = load_weights(model, tmp_path / "best.pth")
    assert not [name for name in (*report.missing, *report.reshaped) if "shallow.bottleneck" in name]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for student in (model, model.teacher):
        with torch.no_grad():
            out = student.heads(student.backbone(model.preprocess(images)))
            expected = net.shallow((images / 255.0 - mean) / std)
        torch.testing.assert_close(out.auxiliary.logits[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["MMT", "UDAStrongBaseline I", "FastReID"])
def test_another_stem_gives_other_features_and_is_told(name: str, images: Tensor, tmp_path: Path, cfg_of) -> None:
    content, expected = saved(CASES[name], images, tmp_path / "best.pth")
    options = ("MODEL.BACKBONE.WITH_NL", name != "MMT", "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool")
    options = options if name == "MMT" else options[:2]
    model = build_model(cfg_of(*options)).eval()
    report = load_weights(model, content)
    key = "STEM_CEIL_POOL" if name == "FastReID" else "STEM_RELU"
    assert [key in line for line in report.conflicts] == [True]
    assert f"Careful: the weights were trained with MODEL.BACKBONE.{key}" in str(report)
    assert (model(images) - expected).abs().max() > 1e-2


def test_following_is_logged_and_imagenet_decides_nothing(tmp_path: Path, images: Tensor, cfg_of, caplog) -> None:
    content, _ = saved(CASES["MMT"], images, tmp_path / "best.pth")
    cfg = follow_weights(cfg_of(), content)
    assert not cfg.MODEL.BACKBONE.STEM_RELU
    assert cfg.MODEL.HEADS.POOL_LAYER == "GlobalAvgPool"
    assert "MODEL.BACKBONE.STEM_RELU is False, because the weights (names of MMT) were trained so" in caplog.text
    bare = cfg_of("MODEL.BACKBONE.STEM_RELU", False)
    assert follow_weights(bare, ResNet(10, 8).state_dict()) == bare


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_imagenet_with_instance_batch_norm(wrap, images: Tensor, cfg_of) -> None:
    """IBN-a's files, flat and wrapped, with the classifier that nobody wants."""
    parts = nn.Sequential()
    for name, module in trunk(ibn=True).items():
        parts.add_module(name, module)
    randomized(parts, images)
    content = wrap({**parts.state_dict(), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)})
    assert is_backbone_only(content)
    model = build_model(cfg_of("MODEL.BACKBONE.WITH_IBN", True)).eval()
    report = load_weights(model, content)
    assert report.unexpected == ()
    bare = ResNet(10, 8, with_ibn=True).eval()
    assert load_weights(bare, content).missing == ()
    x = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        for net in (model.backbone, model.teacher.backbone, bare):
            torch.testing.assert_close(net(x), parts(x), rtol=1e-5, atol=TOLERANCE)


def test_a_bare_backbone_takes_the_backbone_of_a_re_id_file(images: Tensor, tmp_path: Path) -> None:
    content, _ = saved(CASES["OpenUnReID MMT"], images, tmp_path / "best.pth")
    net = ResNet(10, 8)
    report = load_weights(net, content)
    assert report.missing == ()
    assert torch.equal(net.conv1.weight, content["state_dict_1"]["mean_net.backbone.conv1.weight"])


class TestNoWholeModel:
    def test_an_embedding_layer(self, images: Tensor, tmp_path: Path) -> None:
        """MMT --features 32: the neck is narrower than the backbone, and the layer between is not ours."""
        content, _ = saved(CASES["MMT"], images, tmp_path / "best.pth")
        state = content["state_dict"]
        state |= {f"module.feat_bn.{k}": torch.ones(32) for k in ("weight", "bias", "running_mean", "running_var")}
        state |= {"module.feat.weight": torch.zeros(32, 64), "module.feat.bias": torch.zeros(32)}
        torch.save(content, tmp_path / "best.pth")
        with pytest.raises(ValueError, match=r"gives no whole re-ID model \(4 tensors short\)(.|\n)*module\.feat "):
            mlt.load_model(tmp_path / "best.pth")

    def test_no_head(self, tmp_path: Path) -> None:
        torch.save(ResNet(10, 8).state_dict(), tmp_path / "imagenet.pth")
        with pytest.raises(ValueError, match=r"gives no whole re-ID model(.|\n)*heads\.bottleneck"):
            mlt.load_model(tmp_path / "imagenet.pth")

    def test_no_such_depth(self, tmp_path: Path) -> None:
        state = {f"layer{i}.{j}.conv2.weight": torch.zeros(1) for i in range(1, 5) for j in range(5)}
        torch.save({**state, "conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "deep.pth")
        with pytest.raises(ValueError, match=r"\(5, 5, 5, 5\) blocks of kind BasicBlock, which is none of the ResNets"):
            mlt.load_model(tmp_path / "deep.pth")

    def test_no_such_domain(self, images: Tensor, tmp_path: Path) -> None:
        saved(CASES["SpCL"], images, tmp_path / "best.pth")
        with pytest.raises(ValueError, match="domain must be one of target, source, got 'both'"):
            mlt.load_model(tmp_path / "best.pth", domain="both")

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        """Also in the older file format, in which the first of these toolboxes wrote."""
        content = {"state_dict": {}, "model": SequentialNet(relu=True)}
        torch.save(content, tmp_path / "object.pth.tar", _use_new_zipfile_serialization=False)
        with pytest.raises(ValueError, match="could run code"):
            mlt.load_model(tmp_path / "object.pth.tar")
