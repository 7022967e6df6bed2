"""One pass over images: a row for each, written by its index, none missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlt.structures import Batch
from mlt.utils import comm


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
    counts = torch.zeros(num_images, dtype=torch.int64, device=device)
    for batch in loader:
        indices = batch["indices"].to(device, non_blocking=True)
        out = embed(batch["images"].to(device, non_blocking=True)).float()
        if rows is None:
            rows = out.new_zeros(num_images, out.shape[1])
        rows[indices] = out
        counts.index_add_(0, indices, torch.ones_like(indices))
    if comm.active():
        width = max(comm.gather_object(0 if rows is None else rows.shape[1]))
        rows = torch.zeros(num_images, width, device=device) if rows is None else rows
        dist.all_reduce(rows)  # each row is zero on all processes but one
        dist.all_reduce(counts)
    wrong = (counts != 1).nonzero().flatten().tolist()
    if rows is None or wrong:
        raise RuntimeError(
            f"extract: {len(wrong)} of {num_images} images have no row or several, first indices {wrong[:5]}; "
            "the loader must give every index once"
        )
    return rows


@torch.no_grad()
def adapt_batch_norm(model: nn.Module, forward: Callable[[Tensor], object], loader: Iterable[Batch]) -> None:
    """Re-estimate the running BN statistics as the plain mean over the batches of a loader (AdaBN; Li et al., 2016).

    Args:
        model: its BatchNorm layers are changed in place; weights are not.
        forward: runs uint8 images through the layers to adapt; called with `model` in train mode.
        loader: batches with "images" of the new domain.

    Raises:
        ValueError: the loader is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in norms]
    device = next(model.parameters()).device
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    num_batches = 0
    for batch in loader:
        forward(batch["images"].to(device))
        num_batches += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    if not num_batches:
        raise ValueError("adapt_batch_norm: the loader gave no batch; is the target set empty?")
    average_batch_norm(model)


def average_batch_norm(model: nn.Module) -> None:
    """Replace running BN statistics by their mean over all processes, so that every process evaluates one model.

    Args:
        model: changed in place.
    """
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    comm.mean_over_processes([t for m in norms for t in (m.running_mean, m.running_var) if t is not None])
