"""Batch norm for two domains, and batch norm over groups smaller than the batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

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
        self.train(norm.training)

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
        if isinstance(self.BN_S, GroupBatchNorm) and isinstance(self.BN_T, GroupBatchNorm):
            return _normalise_groups(x, (self.BN_S, self.BN_T))
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
            ValueError: another shape, or a training batch that the groups do not divide.
        """
        if not self.training:
            return super().forward(input)
        return _normalise_groups(input, (self,))

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch.

        Args:
            mean: [C].
            variance: [C], unbiased.
        """
        self.num_batches_tracked += 1
        new = 1.0 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        torch._foreach_lerp_([self.running_mean, self.running_var], [mean, variance], new)

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


def _normalise_groups(x: Tensor, norms: Sequence[GroupBatchNorm]) -> Tensor:
    """Training-time batch norm of every group; each norm has an equal share of the rows, in order.

    On CUDA one call normalises all groups, which a network of small groups otherwise pays with launches; on a CPU a
    call costs nothing beside the copies that this needs. Both give the same values.
    """
    norms[0]._check_input_dim(x)
    size, share = norms[0].group_size, len(x) // len(norms)
    if share % size:
        raise ValueError(
            f"GroupBatchNorm: {share} rows (of one domain, in one process) are not a multiple of the group of {size} "
            "(MODEL.BN_GROUP)."
        )
    groups = share // size
    affine = torch.stack([*(norm.weight for norm in norms), *(norm.bias for norm in norms)]).unflatten(0, (2, -1))
    weight, bias = affine.repeat_interleave(groups, dim=1)
    # momentum 1 makes batch_norm write a group's own statistics (plus 0 times what was there) into its row
    means, variances = statistics = norms[0].running_mean.new_zeros(2, len(norms) * groups, x.shape[1])
    normalise = _side_by_side if x.is_cuda and len(means) > 1 else _one_by_one
    out = normalise(x, means, variances, weight, bias, norms[0].eps)
    for norm, new in zip(norms, statistics.unflatten(1, (-1, groups)).mean(2).unbind(1), strict=True):
        norm.follow(*new)
    return out


def _one_by_one(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor, biases: Tensor, eps: float) -> Tensor:
    groups = zip(x.chunk(len(means)), means, variances, weights, biases, strict=True)
    return torch.cat([F.batch_norm(*group, training=True, momentum=1.0, eps=eps) for group in groups])


def _side_by_side(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor, biases: Tensor, eps: float) -> Tensor:
    """The channels of all groups as the channels of one batch of a group's rows."""
    of_all = (means.flatten(), variances.flatten(), weights.flatten(), biases.flatten())
    out = F.batch_norm(_Regroup.apply(x, len(x) // len(means)), *of_all, True, 1.0, eps)
    return cast(Tensor, _Regroup.apply(out, len(x)))


class _Regroup(torch.autograd.Function):
    """Copies groups of rows, [G g, C, ...], to lie side by side, [g, G C, ...], or back. The result is no view, which
    the activation that follows in place would have to copy again; channels are last in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_rows: int) -> Tensor:
        ctx.num_rows = len(x)
        size = num_rows, x.shape[1] * len(x) // num_rows, *x.shape[2:]
        layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
        tall, wide = (x, out) if len(x) > num_rows else (out, x)
        groups = len(tall) // len(wide)
        tall, wide = tall.unflatten(0, (groups, -1)), wide.unflatten(1, (groups, -1)).transpose(0, 1)
        if len(x) > num_rows:
            wide.copy_(tall)
        else:
            tall.copy_(wide)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Regroup.apply(grad, ctx.num_rows)), None


def _grouped(norm: _BatchNorm, group_size: int) -> GroupBatchNorm:
    grouped = GroupBatchNorm(norm.num_features, group_size, norm.eps, norm.momentum)
    grouped.weight, grouped.bias = norm.weight, norm.bias  # the Parameters themselves: frozen ones stay frozen
    grouped.load_state_dict(norm.state_dict())
    return grouped.train(norm.training)
