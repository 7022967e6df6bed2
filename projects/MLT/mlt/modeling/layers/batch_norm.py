"""Batch norm for two domains, and batch norm over groups smaller than the batch."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DomainBatchNorm(nn.Module):
    """Two batch norms (DSBN): BN_S for source rows, BN_T for target rows.

    Training: the first half of the rows is source, the second target. Evaluation: all rows are target.
    Source: Chang et al., CVPR 2019.

    Args:
        norm: the batch norm both start from; its values and frozen parameters are copied.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.BN_S = copy.deepcopy(norm)
        self.BN_T = copy.deepcopy(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: [B, C] or [B, C, H, W], B even in training.

        Raises:
            ValueError: an odd number of rows in training.
        """
        if not self.training:
            return self.BN_T(x)
        if len(x) % 2:
            raise ValueError(
                f"DomainBatchNorm: a training batch is as many source rows as target rows after them, got {len(x)} "
                "rows. Without source images set MODEL.DSBN False."
            )
        source, target = x.chunk(2)
        return torch.cat([self.BN_S(source), self.BN_T(target)])


class GroupBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of `group_size` consecutive rows.

    One GPU with 64 images then normalises as the papers' four GPUs with 16 each. The running statistics move
    towards the mean over the groups. Evaluation is plain batch norm. ("Ghost" batch norm, Hoffer et al., NeurIPS 2017.)

    Args:
        num_features: channels C.
        group_size: rows in a group, >= 1.
        eps: added to the variance.
        momentum: weight of the new in the running statistics; None = mean of all.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, group_size: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        if group_size < 1:
            raise ValueError(f"GroupBatchNorm: group_size must be >= 1, got {group_size}")
        self.group_size = group_size

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"GroupBatchNorm: wanted [B, C] or [B, C, H, W], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise.

        Args:
            input: [B, C] or [B, C, H, W], B a multiple of group_size in training.

        Raises:
            ValueError: a training batch that the groups do not divide.
        """
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if len(input) % self.group_size:
            raise ValueError(
                f"GroupBatchNorm: {len(input)} rows (of one domain, in one process) are not a multiple of the group of "
                f"{self.group_size} (MODEL.BN_GROUP)."
            )
        groups = input.split(self.group_size)
        # momentum 1 makes batch_norm write the group's own statistics (plus 0 times what was there) into its row
        means = self.running_mean.new_zeros(len(groups), self.num_features)
        variances = torch.zeros_like(means)
        out = [
            F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for group, mean, variance in zip(groups, means, variances, strict=True)
        ]
        self.num_batches_tracked += 1
        new = 1.0 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(means.mean(0), new)
        self.running_var.lerp_(variances.mean(0), new)
        return torch.cat(out)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{super().extra_repr()}, group_size={self.group_size}"


def convert_batch_norm(module: nn.Module, *, dsbn: bool = False, group_size: int = 0, sync: bool = False) -> nn.Module:
    """Replace every BatchNorm1d and BatchNorm2d of a module, keeping values and what is frozen.

    Args:
        module: changed in place, except when it is itself a batch norm.
        dsbn: one batch norm for each domain.
        group_size: rows that share statistics; 0 = the batch.
        sync: statistics over all processes (torch's SyncBatchNorm; needs CUDA when there are several).

    Returns:
        The module, or what replaces it.

    Raises:
        ValueError: groups and synchronisation at once.
    """
    if group_size and sync:
        raise ValueError(
            f"MODEL.BN_GROUP {group_size} asks for statistics of less than a process's batch and SyncBN of more: "
            "choose one"
        )
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        norm: _BatchNorm = module
        if group_size:
            norm = _grouped(module, group_size)
        elif sync:
            norm = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return DomainBatchNorm(norm) if dsbn else norm
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, dsbn=dsbn, group_size=group_size, sync=sync))
    return module


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of all batch norms, by their names in the state dict. These alone depend on which
    rows of a batch a process sees; everything else that training changes is equal in all of them.

    Args:
        module: not copied: writing into the tensors changes it.
    """
    return {name: buffer for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))}


def _grouped(norm: _BatchNorm, group_size: int) -> GroupBatchNorm:
    grouped = GroupBatchNorm(norm.num_features, group_size, norm.eps, norm.momentum)
    grouped.weight, grouped.bias = norm.weight, norm.bias  # the Parameters themselves: frozen ones stay frozen
    grouped.load_state_dict(norm.state_dict())
    return grouped.train(norm.training)
