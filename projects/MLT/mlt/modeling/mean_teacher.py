"""Mean teacher: the exponential moving average of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.heads import HeadOutput
from mlt.modeling.layers import running_statistics

BN_RULES = ("forward", "ema", "copy")


class MeanTeacher(nn.Module):
    """A copy of backbone and heads that follows them: theta' <- alpha_t theta' + (1 - alpha_t) theta.

    alpha_t = min(1 - 1/(t+1), momentum) with the ramp, so step t = 0 copies the student; momentum without.
    Source: Tarvainen and Valpola, NeurIPS 2017; the ramp and the rule "forward" are those of MMT's code.

    Args:
        backbone: the student's; copied.
        heads: the student's; copied.
        momentum: largest alpha, in [0, 1).
        ramp: start with alpha 0.
        bn_buffers: running statistics of batch norm: "forward" leaves them alone (the caller forwards each training
            batch through the teacher in training mode), "ema" averages the student's, "copy" takes them.
    """

    ema_steps: Tensor

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: nn.Module,
        momentum: float = 0.999,
        ramp: bool = True,
        bn_buffers: str = "forward",
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"MeanTeacher: MEAN_TEACHER.MOMENTUM must be in [0, 1), got {momentum}")
        if bn_buffers not in BN_RULES:
            raise ValueError(
                f"MeanTeacher: MEAN_TEACHER.BN_BUFFERS must be one of {', '.join(BN_RULES)}, got {bn_buffers!r}"
            )
        self.backbone = copy.deepcopy(backbone)
        self.heads = copy.deepcopy(heads)
        self.requires_grad_(False)
        if bn_buffers != "forward":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.momentum = 0.0  # a method that forwards its teacher in training mode moves nothing by that
        self.momentum = momentum
        self.ramp = ramp
        self.bn_buffers = bn_buffers
        self.register_buffer("ema_steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # `ema_steps` as a Python number: reading the buffer would wait for the GPU
        self.register_load_state_dict_post_hook(_read_steps)

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: nn.Module, heads: nn.Module) -> dict[str, Any]:
        """Constructor arguments from MEAN_TEACHER.

        Args:
            cfg: the whole tree.
            backbone: the student's.
            heads: the student's.
        """
        node = cfg.MEAN_TEACHER
        return {
            "backbone": backbone,
            "heads": heads,
            "momentum": node.MOMENTUM,
            "ramp": node.RAMP,
            "bn_buffers": node.BN_BUFFERS,
        }

    @torch.no_grad()  # not inference mode: losses save these tensors for their gradients
    def forward(self, images: Tensor) -> HeadOutput:
        """The teacher's output; in training mode its BN statistics move.

        Args:
            images: float [B, 3, H, W], normalised.
        """
        return self.heads(self.backbone(images))

    @torch.no_grad()
    def update(self, backbone: nn.Module, heads: nn.Module) -> None:
        """One step of the average, after the optimizer's.

        Args:
            backbone: the student's.
            heads: the student's.
        """
        alpha = min(1 - 1 / (self._steps + 1), self.momentum) if self.ramp else self.momentum
        average = get_ema_multi_avg_fn(alpha)
        for mine, student in ((self.backbone, backbone), (self.heads, heads)):
            average(list(mine.parameters()), list(student.parameters()), None)
            if self.bn_buffers == "ema":
                average(_statistics(mine), _statistics(student), None)
            elif self.bn_buffers == "copy":
                torch._foreach_copy_(_statistics(mine), _statistics(student))
        self._steps += 1
        self.ema_steps += 1

    @torch.no_grad()
    def restart_ramp(self) -> None:
        """The next step is step 0: with the ramp it copies the student."""
        self._steps = 0
        self.ema_steps.zero_()


def _statistics(module: nn.Module) -> list[Tensor]:
    return list(running_statistics(module).values())


def _read_steps(teacher: MeanTeacher, _: Any) -> None:
    teacher._steps = int(teacher.ema_steps)
