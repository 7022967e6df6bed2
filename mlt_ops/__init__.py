"""Operators for clustering embeddings: exact, sparse, and the same on CPU and CUDA. Needs PyTorch only."""

from mlt_ops._library import describe_build, has_cuda, has_extension
from mlt_ops.kmeans import kmeans, kmeans_plus_plus
from mlt_ops.knn import knn
from mlt_ops.segment_mean import segment_mean
from mlt_ops.structures import KMeansResult, Neighbors, SparseDistance, SparseRows

__all__ = [
    "KMeansResult",
    "Neighbors",
    "SparseDistance",
    "SparseRows",
    "describe_build",
    "has_cuda",
    "has_extension",
    "kmeans",
    "kmeans_plus_plus",
    "knn",
    "segment_mean",
]
