"""One pass over images: a row for each, written by its index, none missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlt.modeling.layers import GroupBatchNorm, running_statistics
from mlt.modeling.meta_arch import ReidModel
from mlt.structures import Batch
from mlt.utils import comm
from mlt.utils.transfer import send


@torch.no_grad()
def extract(
    embed: Callable[[Tensor], Tensor], loader: Iterable[Batch], num_images: int, device: torch.device
) -> Tensor:
    """Run `embed` over a loader and put each row where its image belongs.

    The processes of a group share the work (the loader gives each its own batches) and all get all rows.

    Args:
        embed: uint8 images [B,3,H,W] on `device` -> [B,D].
        loader: batches with "images" and "indices" (0 .. num_images-1).
        num_images: rows wanted.
        device: where to compute and keep the result.

    Returns:
        float32 [num_images, D] on `device`.

    Raises:
        RuntimeError: an image got no row, or more than one.
    """
    rows: Tensor | None = None
    mine = [torch.empty(0, dtype=torch.int64)]
    for batch in loader:
        out = embed(send(batch["images"], device)).float()
        if rows is None:
            rows = out.new_empty(num_images, out.shape[1])
        rows[send(batch["indices"], device)] = out
        mine.append(batch["indices"].cpu())
    written, widths = zip(*comm.gather_object((torch.cat(mine), 0 if rows is None else rows.shape[1])))
    wrong = (torch.cat(written).bincount(minlength=num_images) != 1).nonzero().flatten().tolist()
    if wrong or not max(widths):
        raise RuntimeError(
            f"extract: {len(wrong)} of {num_images} images have no row or several, first indices {wrong[:5]}; "
            "the loader must give every index once"
        )
    if rows is None:  # a process without a batch
        rows = torch.empty(num_images, max(widths), device=device)
    comm.share_rows(rows, written)
    return rows


@torch.no_grad()
def adapt_batch_norm(model: ReidModel, loader: Iterable[Batch]) -> None:
    """Re-estimate the BN statistics that evaluation uses as the plain mean over batches (AdaBN; Li et al., 2016).

    Every net of the model is adapted. Only norms that evaluation passes through change: with DSBN the target's see all
    rows and the source's stay. A last batch that is smaller than the others, also those of other processes, is left
    out, as are the rows of a batch that do not fill a group of MODEL.BN_GROUP.

    Args:
        model: its running BN statistics are changed in place; weights and modes are not.
        loader: batches with "images" of the new domain, this process's share of them.

    Raises:
        ValueError: no process has a batch, or none that fills a group of MODEL.BN_GROUP.
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    group = max((norm.group_size for norm in norms if isinstance(norm, GroupBatchNorm)), default=1)
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # mean of all batches since the counter was zero
        norm.num_batches_tracked.zero_()
        if isinstance(norm, nn.SyncBatchNorm):  # one process may have more batches than another, which would hang
            norm.forward = MethodType(_BatchNorm.forward, norm)  # type: ignore[method-assign]
    rows = batches = 0
    for batch in loader:
        images = batch["images"][: len(batch["images"]) // group * group]
        if len(images) >= max(rows, 1):
            rows, batches = len(images), batches + 1
            for net in model.nets:
                model.embed(images, net)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        vars(norm).pop("forward", None)
    for module, mode in modes.items():
        module.training = mode
    everyone = comm.gather_object((rows, batches))
    largest = max(size for size, _ in everyone)
    if not largest:
        raise ValueError(
            f"adapt_batch_norm: no batch of at least {group} images (MODEL.BN_GROUP); set DATASETS.TARGETS, "
            "TEST.IMS_PER_BATCH, or PRETRAIN.ADAPT_BN and TEST.ADAPT_BN False"
        )
    counts = [number if size == largest else 0 for size, number in everyone]
    average_batch_norm(model, counts[comm.rank()] / sum(counts))


def average_batch_norm(model: nn.Module, share: float | None = None) -> None:
    """Replace running BN statistics by their mean over all processes, so that every process evaluates one model.

    Args:
        model: changed in place.
        share: what this process's statistics count; all shares add up to 1. None: equal ones.
    """
    statistics = list(running_statistics(model).values())
    if share is not None and comm.active():
        torch._foreach_mul_(statistics, share * comm.world_size())
    comm.mean_over_processes(statistics)
