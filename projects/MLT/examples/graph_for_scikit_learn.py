"""mlt_ops' neighbour graph in scikit-learn's DBSCAN and HDBSCAN: python graph_for_scikit_learn.py embeddings.npy"""

import sys

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN, HDBSCAN
from torch import Tensor

import mlt_ops


def neighbour_graph(rows: Tensor, max_distance: float = 0.9) -> csr_matrix:
    """Sparse Jaccard distances [N, N]; a pair that is missing is farther apart than `max_distance`."""
    return csr_matrix(mlt_ops.jaccard_distance(rows, max_distance=max_distance, k1=20, k2=6).to_scipy())


def connect(graph: csr_matrix) -> csr_matrix:
    """HDBSCAN wants one connected graph: a chain through its parts, of the largest distance there is."""
    parts, part = connected_components(graph, directed=False)
    first = np.unique(part, return_index=True)[1]
    ends = np.concatenate([first[:-1], first[1:]]), np.concatenate([first[1:], first[:-1]])
    return csr_matrix(csr_array(graph) + csr_array(coo_array((np.ones(2 * parts - 2), ends), shape=graph.shape)))


def cluster(rows: Tensor, eps: float = 0.6, min_samples: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] of both for rows [N, D], -1 for noise; `eps` is DBSCAN's."""
    graph = neighbour_graph(torch.nn.functional.normalize(rows))
    by_density = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph)
    by_hierarchy = HDBSCAN(min_samples=min_samples, metric="precomputed", copy=True).fit_predict(connect(graph))
    return by_density, by_hierarchy


if __name__ == "__main__":
    rows = torch.from_numpy(np.load(sys.argv[1])).float()
    for name, labels in zip(("DBSCAN", "HDBSCAN"), cluster(rows), strict=True):
        print(f"{name}: {labels.max() + 1} clusters, {(labels < 0).sum()} of {len(labels)} are noise")
