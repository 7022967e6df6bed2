"""Mean of the rows with each label: centroids of clusters, the same bits on every device and thread count."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._arguments import as_integer, check_is_tensor
from mlt_ops._inputs import ELEMENTS_PER_CALL, as_features
from mlt_ops._library import has_cuda, has_extension

_FALLBACK_COLUMNS = 256  # columns that the fallback converts to double at a time


def segment_mean(features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Average the rows of each label.

    The rows of a segment are added in double, by ascending index, without atomics: CPU and CUDA give the same bits at
    any number of threads. Without the extension PyTorch does the same, slower. Time O(N * D), memory O(N + K * D).

    Args:
        features: [N, D], any floating dtype; computed from float32.
        labels: [N] int64 on the features' device, 0..num_segments-1, or -1 for rows that belong nowhere.
        num_segments: K, the number of segments.

    Returns:
        Means [K, D] float32 (0 where a segment is empty) and counts [K] int64. Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed or non-finite inputs, labels out of range.
    """
    rows = as_features(features, "segment_mean")
    check_is_tensor(labels, "segment_mean: labels")
    if labels.shape != rows.shape[:1] or labels.dtype != torch.int64 or labels.device != rows.device:
        raise ValueError(
            f"segment_mean: labels must be int64 [{len(rows)}] on {rows.device}, "
            f"got {labels.dtype} {list(labels.shape)} on {labels.device}."
        )
    num_segments = as_integer(num_segments, "segment_mean", "num_segments")
    if num_segments < 0:
        raise ValueError(f"segment_mean: num_segments must not be negative, got {num_segments}.")
    if len(labels) and (int(labels.min()) < -1 or int(labels.max()) >= num_segments):
        raise ValueError(
            f"segment_mean: labels must be between -1 and {num_segments - 1}, "
            f"got {int(labels.min())} to {int(labels.max())}."
        )
    return unchecked_segment_mean(rows, labels, num_segments)


def unchecked_segment_mean(rows: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """`segment_mean` for arguments that are known to be right: no pass over the features, no wait for the GPU.

    Args:
        rows: [N, D] float32.
        labels: [N] int64.
        num_segments: K.
    """
    sorted_labels, order = labels.sort(stable=True)
    rowptr = torch.searchsorted(sorted_labels, torch.arange(num_segments + 1, device=labels.device))
    mean_of = _segment_mean_torch
    if has_cuda(rows.device) if rows.is_cuda else has_extension():
        mean_of = torch.ops.mlt_ops.segment_mean
    step = max(num_segments * ELEMENTS_PER_CALL // max(rows.numel(), 1), 1)
    bounds = (rowptr[first : first + step + 1] for first in range(0, num_segments, step))
    means = [mean_of(rows, order, part) for part in bounds] or [rows.new_empty(0, rows.shape[1])]
    return torch.cat(means) if len(means) > 1 else means[0], rowptr.diff()


def _segment_mean_torch(rows: Tensor, order: Tensor, rowptr: Tensor) -> Tensor:
    """The operator's result without the extension: the same additions in the same order."""
    order, offsets = order[rowptr[0] : rowptr[-1]], rowptr - rowptr[0]
    count = offsets.diff().clamp(min=1).unsqueeze(1)
    parts = rows.split(_FALLBACK_COLUMNS, dim=1)
    sums = (torch.segment_reduce(part[order].double(), "sum", offsets=offsets, axis=0, initial=0) for part in parts)
    return torch.cat([(total / count).float() for total in sums], dim=1)


if has_extension():

    @torch.library.register_fake("mlt_ops::segment_mean")
    def _fake_segment_mean(features: Tensor, order: Tensor, rowptr: Tensor) -> Tensor:
        return features.new_empty(rowptr.shape[0] - 1, features.shape[1])
