"""Only mlt_ops, which needs nothing but PyTorch: clusters of a NumPy array of embeddings.

python cluster_embeddings.py embeddings.npy labels.npy
"""

import sys

import numpy as np
import torch

import mlt_ops


def cluster(embeddings: np.ndarray, eps: float = 0.6, min_samples: int = 4) -> np.ndarray:
    """DBSCAN on k-reciprocal Jaccard distances; no N x N matrix is built.

    Args:
        embeddings: float [N, D], of any length.
        eps: largest distance of neighbours, 0..1.
        min_samples: neighbours, itself included, that make a core point.

    Returns:
        int64 [N], -1 for noise.
    """
    rows = torch.nn.functional.normalize(torch.from_numpy(embeddings).float())
    distance = mlt_ops.jaccard_distance(rows, max_distance=eps, k1=30, k2=6)
    return mlt_ops.dbscan(distance, eps=eps, min_samples=min_samples).numpy()


if __name__ == "__main__":
    labels = cluster(np.load(sys.argv[1]))
    np.save(sys.argv[2], labels)
    print(f"{labels.max() + 1} clusters, {(labels < 0).sum()} of {len(labels)} are noise")
