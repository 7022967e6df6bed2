"""The learning rate as a function of the iteration alone, so that a resumed run continues it exactly."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from yacs.config import CfgNode

from mlt.registry import unknown_name
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)
SCHEDULES = ("MultiStepLR", "CosineAnnealingLR")


@dataclass(frozen=True)
class LrSchedule:
    """Linear warm-up per iteration times a schedule per epoch. Called with an iteration, gives the factor of the rate.

    Args:
        iters_per_epoch: iterations of an epoch, >= 1.
        max_epoch: epochs of the run, >= 1; the cosine ends here.
        name: "MultiStepLR" or "CosineAnnealingLR".
        steps: epochs at which MultiStepLR multiplies by `gamma`.
        gamma: factor of each step.
        eta_min: where the cosine ends, as a share of the base rate.
        warmup_iters: iterations of warm-up; 0 = none.
        warmup_factor: factor of the first iteration, rising in a straight line to 1 at iteration `warmup_iters`.
    """

    iters_per_epoch: int
    max_epoch: int
    name: str = "MultiStepLR"
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    eta_min: float = 0.0
    warmup_iters: int = 0
    warmup_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise KeyError(
                unknown_name("learning-rate schedule", self.name, list(SCHEDULES)) + " It is set by SOLVER.SCHED."
            )
        if self.iters_per_epoch < 1 or self.max_epoch < 1 or self.warmup_iters < 0:
            raise ValueError(
                "LrSchedule: wanted iters_per_epoch >= 1, max_epoch >= 1 and warmup_iters >= 0, got "
                f"{self.iters_per_epoch}, {self.max_epoch}, {self.warmup_iters}"
            )

    def __call__(self, iteration: int) -> float:
        """Factor of the learning rate.

        Args:
            iteration: counted from 0 over the whole run.
        """
        epoch = min(iteration // self.iters_per_epoch, self.max_epoch)
        if self.name == "MultiStepLR":
            factor = self.gamma ** sum(step <= epoch for step in self.steps)
        else:
            factor = self.eta_min + (1 - self.eta_min) * (1 + math.cos(math.pi * epoch / self.max_epoch)) / 2
        if iteration < self.warmup_iters:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup_iters
        return factor


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer, iters_per_epoch: int) -> LambdaLR:
    """The schedule that cfg.SOLVER describes; call its `step()` after every iteration.

    Warns of steps that are never reached. Groups with a learning rate of their own follow the same factor,
    SOLVER.ETA_MIN_LR being meant for BASE_LR.

    Args:
        cfg: SOLVER.{MAX_EPOCH, SCHED, STEPS, GAMMA, ETA_MIN_LR, BASE_LR, WARMUP_ITERS, WARMUP_FACTOR}.
        optimizer: with the base rates in its groups.
        iters_per_epoch: iterations of an epoch.
    """
    solver = cfg.SOLVER
    if solver.SCHED == "MultiStepLR" and solver.STEPS and min(solver.STEPS) >= solver.MAX_EPOCH:
        warn_once(
            logger,
            f"SOLVER.STEPS {list(solver.STEPS)} lie beyond SOLVER.MAX_EPOCH {solver.MAX_EPOCH}: the learning rate "
            "stays constant (if that is wanted, SOLVER.STEPS [])",
        )
    schedule = LrSchedule(
        iters_per_epoch=iters_per_epoch,
        max_epoch=solver.MAX_EPOCH,
        name=solver.SCHED,
        steps=tuple(solver.STEPS),
        gamma=solver.GAMMA,
        eta_min=solver.ETA_MIN_LR / solver.BASE_LR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
    )
    # a plain function: LambdaLR would save the fields of a callable object and, on resume, put the old ones back
    return LambdaLR(optimizer, lambda iteration: schedule(iteration))


def restore_optimizer(
    optimizer: Optimizer, scheduler: LambdaLR, optimizer_state: dict[str, Any], scheduler_state: dict[str, Any]
) -> None:
    """Go on where a checkpoint was: moments and steps are its own, rates and decays those of the present config.

    Args:
        optimizer: as the config builds it.
        scheduler: of the optimizer.
        optimizer_state: its state_dict in the checkpoint.
        scheduler_state: the scheduler's.

    Raises:
        ValueError: the checkpoint has other parameter groups.
    """
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    base_lrs = scheduler.base_lrs
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state | {"base_lrs": base_lrs})
    for group, own, rate, factor in zip(optimizer.param_groups, options, base_lrs, scheduler.lr_lambdas, strict=True):
        group.update(own)
        group["lr"] = rate * factor(scheduler.last_epoch)
