"""DBSCAN on sparse distances: labels that depend on the graph alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mlt_ops._arguments import as_count, as_number
from mlt_ops._library import has_extension
from mlt_ops._sparse import require_kernels
from mlt_ops.structures import SparseDistance


def dbscan(distance: SparseDistance, *, eps: float, min_samples: int) -> Tensor:
    """Cluster rows by density.

    A row with at least `min_samples` rows within `eps`, itself included, is a core point; core points within `eps` of
    one another share a cluster. Clusters are numbered by their smallest core point; a row that is no core point joins
    the lowest-numbered cluster with a core point within `eps`. These rules give the labels of scikit-learn on the
    same graph, and the same ones on CPU and (not yet run on a GPU) CUDA. One graph serves any number of calls with
    eps up to its cut-off. Time O(nnz), memory O(N).

    Args:
        distance: the graph, from `jaccard_distance` or of your own. What it does not hold is farther than eps.
        eps: largest distance of neighbours, itself included, above 0 and at most `distance.max_distance`. Compared in
            float32, as scikit-learn does for float32 distances.
        min_samples: neighbours, the row itself included, that make a core point; at least 1.

    Returns:
        Labels [N] int64 on the graph's device: 0..C-1, or -1 for noise.

    Raises:
        ValueError: eps or min_samples out of range.
        RuntimeError: the extension is missing or lacks CUDA kernels.

    Source: Ester et al., A Density-Based Algorithm for Discovering Clusters, KDD 1996.
    """
    if not isinstance(distance, SparseDistance):
        raise ValueError(
            f"dbscan: distance must be a SparseDistance, got {type(distance).__name__}. `jaccard_distance` makes one."
        )
    eps = as_number(eps, "dbscan", "eps")
    wanted, there = distance.value.new_tensor((eps, distance.max_distance), device="cpu")
    if not (eps > 0 and wanted <= there):
        raise ValueError(
            f"dbscan: eps must be above 0 and at most {distance.max_distance}, the max_distance of the graph, got "
            f"{eps}. Build the graph with a larger max_distance for a larger eps."
        )
    min_samples = as_count(min_samples, "dbscan", "min_samples")
    require_kernels("dbscan", distance.device)
    root = torch.ops.mlt_ops.dbscan(distance.rowptr, distance.col, distance.value, eps, min_samples)
    is_root = root == torch.arange(len(root), dtype=root.dtype, device=root.device)
    number = is_root.cumsum(0) - 1
    return torch.where(root >= 0, number[root.clamp(min=0)], -1)


if has_extension():

    @torch.library.register_fake("mlt_ops::dbscan")
    def _fake_dbscan(rowptr: Tensor, col: Tensor, value: Tensor, eps: float, min_samples: int) -> Tensor:
        return col.new_empty(rowptr.shape[0] - 1)
