"""The learning rate against values worked out by hand, and across a resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mlt.config import get_cfg
from mlt.solver.lr_schedule import LrSchedule, build_lr_scheduler, restore_optimizer
from mlt.utils.checkpoint import load_checkpoint, save_checkpoint


def test_multi_step() -> None:
    schedule = LrSchedule(iters_per_epoch=10, max_epoch=8, steps=(4, 7), gamma=0.1)
    assert [schedule(i) for i in (0, 39)] == [1, 1]
    assert schedule(40) == schedule(69) == pytest.approx(0.1)
    assert schedule(70) == pytest.approx(0.01)


def test_cosine_changes_with_the_epoch_and_ends_at_its_minimum() -> None:
    schedule = LrSchedule(iters_per_epoch=5, max_epoch=4, name="CosineAnnealingLR", eta_min=0.2)
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]
    assert [schedule(5 * e) for e in range(5)] == pytest.approx(expected)
    assert schedule(4) == schedule(0) == 1
    assert schedule(20) == schedule(500) == pytest.approx(0.2)


def test_cosine_equals_torchs() -> None:
    ours, theirs = (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=3.0) for _ in range(2))
    schedule = LrSchedule(iters_per_epoch=1, max_epoch=12, name="CosineAnnealingLR", eta_min=0.5 / 3)
    ours_schedule = LambdaLR(ours, lambda i: schedule(i))
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=12, eta_min=0.5)
    for _ in range(12):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        for optimizer, scheduler in ((ours, ours_schedule), (theirs, torchs)):
            optimizer.step()
            scheduler.step()


def test_warm_up_is_linear_and_multiplies() -> None:
    schedule = LrSchedule(iters_per_epoch=10, max_epoch=9, steps=(1,), gamma=0.5, warmup_iters=20, warmup_factor=0.1)
    assert schedule(0) == pytest.approx(0.1)
    assert schedule(5) == pytest.approx(0.325)
    assert schedule(10) == pytest.approx(0.5 * 0.55)
    assert schedule(20) == pytest.approx(0.5)


def test_from_cfg_keeps_the_groups_own_rates() -> None:
    cfg = get_cfg()
    cfg.SOLVER.merge_from_list(["STEPS", [1], "MAX_EPOCH", 2, "WARMUP_ITERS", 0])
    model = nn.Linear(1, 1)
    groups: list[dict[str, object]] = [{"params": model.weight}, {"params": model.bias, "lr": 2.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer, 3)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.2])


def test_resumes_exactly_under_the_new_schedule(tmp_path: Path) -> None:
    def start(gamma: float) -> tuple[torch.optim.Optimizer, LambdaLR]:
        cfg = get_cfg()
        cfg.SOLVER.merge_from_list(["STEPS", [2, 3], "GAMMA", gamma, "MAX_EPOCH", 9, "WARMUP_ITERS", 3])
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.3)
        return optimizer, build_lr_scheduler(cfg, optimizer, 2)

    def run(optimizer: torch.optim.Optimizer, scheduler: LambdaLR, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    whole = run(*start(0.1), 10)
    first = start(0.1)
    assert run(*first, 3) == whole[:3]
    save_checkpoint({"optimizer": first[0].state_dict(), "scheduler": first[1].state_dict()}, tmp_path / "a.pth")
    state = load_checkpoint(tmp_path / "a.pth")
    for gamma, expected in ((0.1, whole[3:]), (0.5, run(*start(0.5), 10)[3:])):
        optimizer, scheduler = start(gamma)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        assert run(optimizer, scheduler, 7) == expected


@pytest.mark.parametrize("rate", [0.3, 0.1])
def test_restored_moments_are_the_checkpoints_and_rates_the_configs(rate: float) -> None:
    def make(lr: float, decay: float) -> tuple[torch.optim.Optimizer, LambdaLR]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=lr, weight_decay=decay, momentum=0.9)
        return optimizer, LambdaLR(optimizer, LrSchedule(iters_per_epoch=2, max_epoch=3, steps=(1, 2)))

    old, old_schedule = make(0.3, 0.0)
    for _ in range(3):
        old.param_groups[0]["params"][0].grad = torch.tensor([1.0, 2.0])
        old.step()
        old_schedule.step()
    new, new_schedule = make(rate, 0.5)
    restore_optimizer(new, new_schedule, old.state_dict(), old_schedule.state_dict())
    buffers = [one.state[one.param_groups[0]["params"][0]]["momentum_buffer"] for one in (old, new)]
    assert torch.equal(*buffers)
    assert new.param_groups[0]["weight_decay"] == 0.5
    assert new.param_groups[0]["lr"] == rate * 0.1
    new_schedule.step()
    assert new.param_groups[0]["lr"] == pytest.approx(rate * 0.01)


def test_errors() -> None:
    with pytest.raises(KeyError, match=r"Did you mean 'MultiStepLR'.*SOLVER.SCHED"):
        LrSchedule(iters_per_epoch=1, max_epoch=1, name="MultistepLR")
    with pytest.raises(ValueError, match="iters_per_epoch >= 1"):
        LrSchedule(iters_per_epoch=0, max_epoch=1)
