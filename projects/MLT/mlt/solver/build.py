"""Optimizers: parameter groups as FastReID makes them, and the zeroing of moments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.registry import unknown_name

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that cfg.SOLVER describes, over the parameters that require a gradient.

    Args:
        cfg: SOLVER.{OPT, BASE_LR, MOMENTUM, *_LR_FACTOR, WEIGHT_DECAY*}.
        model: not wrapped in DDP, on its device.

    Raises:
        KeyError: torch.optim has no such optimizer (or only one without weight decay).
        ValueError: no parameter requires a gradient, or SOLVER.BASE_LR is not positive.
    """
    solver = cfg.SOLVER
    if solver.BASE_LR <= 0:
        raise ValueError(f"SOLVER.BASE_LR must be > 0, got {solver.BASE_LR}")
    groups = parameter_groups(
        model,
        lr=solver.BASE_LR,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        heads_lr_factor=solver.HEADS_LR_FACTOR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return make_optimizer(solver.OPT, groups, momentum=solver.MOMENTUM)


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    bias_lr_factor: float = 1.0,
    heads_lr_factor: float = 1.0,
    weight_decay: float = 0.0,
    weight_decay_norm: float = 0.0,
    weight_decay_bias: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameters that share learning rate and weight decay, in the order of the model.

    A norm layer's weight decays by `weight_decay_norm`; every bias, a norm's too, is a bias.

    Args:
        model: frozen parameters (a teacher's, for instance) are left out; shared ones count once.
        lr: base learning rate.
        bias_lr_factor: factor of biases.
        heads_lr_factor: factor of everything under a module called "heads"; multiplies with the bias factor.
        weight_decay: of all other weights.
        weight_decay_norm: of norm layers' weights.
        weight_decay_bias: of biases.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        *modules, leaf = name.split(".")
        factor = heads_lr_factor if "heads" in modules else 1.0
        decay = weight_decay_norm if id(parameter) in norms else weight_decay
        if leaf == "bias":
            factor, decay = factor * bias_lr_factor, weight_decay_bias
        groups.setdefault((lr * factor, decay), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to optimize")
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def make_optimizer(name: str, groups: list[dict[str, Any]], *, momentum: float) -> torch.optim.Optimizer:
    """An optimizer of torch.optim by its class name, in its fused form where all parameters allow.

    Args:
        name: "Adam", "AdamW", "SGD", ...
        groups: as `parameter_groups` returns them.
        momentum: used by SGD alone.

    Raises:
        KeyError: no such optimizer.
    """
    known = {
        key: inspect.signature(value).parameters
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }
    known = {key: options for key, options in known.items() if "weight_decay" in options}
    if name not in known:
        raise KeyError(unknown_name("optimizer", name, list(known)) + " It is set by SOLVER.OPT.")
    options: dict[str, Any] = {"momentum": momentum} if name == "SGD" else {}
    if "fused" in known[name]:
        options["fused"] = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in _parameters(groups))
    return getattr(torch.optim, name)(groups, **options)


def zero_moments(optimizer: torch.optim.Optimizer, params: Iterable[Tensor] | None = None) -> None:
    """Forget what an optimizer has gathered, step counts too, as if it were new; the parameters stay.

    Args:
        optimizer: learning rates and other options stay.
        params: only of these; None = of all.
    """
    chosen = list(_parameters(optimizer.param_groups)) if params is None else list(params)
    new = type(optimizer)([dict(group) for group in optimizer.param_groups])  # type: ignore[call-arg]
    for parameter in chosen:
        optimizer.state.pop(parameter, None)
        if parameter in new.state:  # a few optimizers fill their state when they are made
            optimizer.state[parameter] = new.state[parameter]


def _parameters(groups: list[dict[str, Any]]) -> Iterable[nn.Parameter]:
    return (p for group in groups for p in group["params"])
