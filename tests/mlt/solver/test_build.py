"""Parameter groups, optimizers by name, and the zeroing of moments."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from mlt.config import get_cfg
from mlt.solver.build import build_optimizer, make_optimizer, parameter_groups, zero_moments


class Net(nn.Module):
    """The modules that are treated differently, and a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.heads = nn.Module()
        self.heads.bottleneck = nn.BatchNorm1d(4)
        self.heads.bottleneck.bias.requires_grad_(False)
        self.heads.classifier = nn.Linear(4, 6)
        self.teacher = nn.Linear(4, 2).requires_grad_(False)


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is q for q in parameters)}


def step(optimizer: Optimizer, times: int = 3) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(times):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def test_groups_by_rate_and_decay() -> None:
    model = Net()
    groups = parameter_groups(
        model,
        lr=1.0,
        bias_lr_factor=2.0,
        heads_lr_factor=10.0,
        weight_decay=0.1,
        weight_decay_norm=0.2,
        weight_decay_bias=0.3,
    )
    found = {(g["lr"], g["weight_decay"]): names_of(model, g["params"]) for g in groups}
    assert found == {
        (1.0, 0.1): {"backbone.0.weight"},
        (2.0, 0.3): {"backbone.0.bias", "backbone.1.bias"},
        (1.0, 0.2): {"backbone.1.weight"},
        (10.0, 0.2): {"heads.bottleneck.weight"},
        (10.0, 0.1): {"heads.classifier.weight"},
        (20.0, 0.3): {"heads.classifier.bias"},
    }


def test_equal_settings_make_one_group() -> None:
    model = Net()
    (group,) = parameter_groups(model, lr=1.0)
    assert len(group["params"]) == 7
    model.heads.shared = model.backbone[0]
    assert sum(len(g["params"]) for g in parameter_groups(model, lr=1.0)) == 7


def test_nothing_to_optimize() -> None:
    with pytest.raises(ValueError, match="Linear has no parameter that requires a gradient"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), lr=1.0)


def test_from_cfg() -> None:
    cfg = get_cfg()
    cfg.SOLVER.OPT = "SGD"
    cfg.SOLVER.MOMENTUM = 0.7
    cfg.SOLVER.HEADS_LR_FACTOR = 3.0
    optimizer = build_optimizer(cfg, Net())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {g["lr"] for g in optimizer.param_groups} == {cfg.SOLVER.BASE_LR, 3 * cfg.SOLVER.BASE_LR}
    assert {g["momentum"] for g in optimizer.param_groups} == {0.7}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {cfg.SOLVER.WEIGHT_DECAY}


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam"])
def test_any_optimizer_of_torch(name: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(name, parameter_groups(model, lr=0.1), momentum=0.9)
    before = model.weight.detach().clone()
    step(optimizer, 1)
    assert type(optimizer) is getattr(torch.optim, name)
    assert not torch.equal(model.weight, before)


def test_fused_step_is_adams() -> None:
    fused, plain = nn.Linear(5, 4), nn.Linear(5, 4)
    plain.load_state_dict(fused.state_dict())
    ours = make_optimizer("Adam", parameter_groups(fused, lr=0.01, weight_decay=0.1), momentum=0.0)
    assert ours.param_groups[0]["fused"]
    step(ours)
    step(torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=0.1))
    torch.testing.assert_close(fused.weight, plain.weight)


@pytest.mark.parametrize("name", ["AdmW", "LBFGS", "Optimizer"])
def test_unknown_optimizer_names_the_known(name: str) -> None:
    with pytest.raises(KeyError, match=f"No optimizer '{name}'.*Adam, AdamW,.*SOLVER.OPT"):
        make_optimizer(name, parameter_groups(nn.Linear(2, 2), lr=1.0), momentum=0.0)


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad", "NAdam", "RMSprop"])
def test_zeroed_optimizer_steps_like_a_new_one(name: str) -> None:
    used, new = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = make_optimizer(name, parameter_groups(used, lr=0.1, weight_decay=0.01), momentum=0.9)
    step(optimizer, 4)
    zero_moments(optimizer)
    new.load_state_dict(used.state_dict())
    step(optimizer)
    step(make_optimizer(name, parameter_groups(new, lr=0.1, weight_decay=0.01), momentum=0.9))
    torch.testing.assert_close(used.weight, new.weight, rtol=0, atol=0)


def test_zeroing_some_parameters_leaves_the_others() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    step(optimizer)
    bias = optimizer.state[model.bias]["exp_avg"].clone()
    zero_moments(optimizer, [model.weight])
    assert model.weight not in optimizer.state
    assert torch.equal(optimizer.state[model.bias]["exp_avg"], bias)
