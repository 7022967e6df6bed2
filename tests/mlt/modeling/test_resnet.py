from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._api import WeightsEnum

from mlt.modeling.backbones import ResNet, build_backbone


def torchvision_map(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Feature map of a torchvision ResNet."""
    for name, module in net.named_children():
        if name == "avgpool":
            break
        images = module(images)
    return images


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_is_torchvisions_network(depth, channels):
    """Same names, same values: stride 2 at the end, the rest as it comes."""
    theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    ours = ResNet(depth, last_stride=2).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 32)
    assert torch.equal(ours(images), torchvision_map(theirs, images))
    assert ours.out_channels == channels


@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101])
def test_depths_and_width(depth):
    net = ResNet(depth, width=8).eval()
    out = net(torch.zeros(1, 3, 64, 32))
    assert out.shape == (1, net.out_channels, 4, 2)
    assert net.out_channels == 64 * (4 if depth >= 50 else 1)


def test_last_stride_2_halves_the_map():
    assert ResNet(10, 8, last_stride=2).eval()(torch.zeros(1, 3, 64, 32)).shape[2:] == (2, 1)


def test_ibn_is_in_layers_1_to_3_under_the_published_names():
    keys = ResNet(50, 8, with_ibn=True).state_dict().keys()
    assert {"layer1.0.bn1.IN.weight", "layer3.5.bn1.BN.running_mean", "layer4.0.bn1.weight"} <= keys
    assert "layer4.0.bn1.IN.weight" not in keys
    assert ResNet(10, 8, with_ibn=True)(torch.zeros(2, 3, 32, 16)).isfinite().all()


def test_non_local_blocks_sit_behind_the_last_blocks():
    net = ResNet(50, 8, nl_channels=1)
    assert (len(net.NL_2), len(net.NL_3)) == (2, 3)
    names = ("theta.weight", "phi.bias", "g.weight", "W.0.weight", "W.1.running_var")
    assert {f"NL_3.2.{name}" for name in names} <= net.state_dict().keys()
    seen: list[str] = []
    for name in ("layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    net(torch.zeros(2, 3, 32, 16))
    assert seen == ["layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"]


def test_non_local_blocks_of_a_short_network():
    net = ResNet(10, 8, nl_channels=1)
    assert (len(net.NL_2), len(net.NL_3)) == (1, 1)


def test_stem_options():
    images = torch.randn(2, 3, 32, 16)
    plain, linear = ResNet(10, 8), ResNet(10, 8, stem_relu=False)
    linear.load_state_dict(plain.state_dict())
    assert not torch.equal(plain(images), linear(images))
    assert ResNet(10, 8).maxpool(torch.zeros(1, 1, 16, 8)).shape == (1, 1, 8, 4)
    pool = ResNet(10, 8, stem_ceil_pool=True).maxpool
    assert (pool.padding, pool.ceil_mode) == (0, True)
    assert pool(torch.zeros(1, 1, 16, 8)).shape == (1, 1, 8, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"depth": 20}, "depth must be one of 10, 18"), ({"width": 4}, "width"), ({"last_stride": 3}, "last_stride")],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        ResNet(**options)


def test_config_reaches_the_network(cfg_of):
    cfg = cfg_of("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.WITH_NL", True, "MODEL.BACKBONE.NL_CHANNELS", 3)
    net = build_backbone(cfg)
    assert net.depth == 18
    assert net.NL_2[0].theta.out_channels == 3
    with pytest.raises(ValueError, match=r"one of 10x, 18x.*got 'fifty'"):
        build_backbone(cfg_of("MODEL.BACKBONE.DEPTH", "fifty"))


class TestPretrained:
    def test_local_file(self, cfg_of, tmp_path):
        trained = ResNet(10, 8)
        path = str(tmp_path / "imagenet.pth")
        torch.save({**trained.state_dict(), "fc.weight": torch.zeros(1000, 64)}, path)
        net = build_backbone(cfg_of("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", path))
        assert torch.equal(net.layer4[0].conv1.weight, trained.layer4[0].conv1.weight)

    def test_torchvision_weights(self, monkeypatch):
        theirs = torchvision.models.resnet18().state_dict()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: theirs)
        net = ResNet(18)
        report = net.load_pretrained()
        assert torch.equal(net.conv1.weight, theirs["conv1.weight"])
        assert report.missing == ()

    def test_offline(self, monkeypatch):
        def refuse(self, **_):
            raise URLError("no network")

        monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
        with pytest.raises(OSError, match=r"resnet18.*no network.*PRETRAIN_PATH"):
            ResNet(18).load_pretrained()

    @pytest.mark.parametrize("options", [{"depth": 10}, {"depth": 18, "width": 32}, {"depth": 50, "with_ibn": True}])
    def test_networks_that_torchvision_has_no_weights_for(self, options):
        with pytest.raises(ValueError, match=r"no ImageNet weights.*PRETRAIN_PATH"):
            ResNet(**options).load_pretrained()
