"""Operators for clustering embeddings: exact, sparse, and the same on CPU and CUDA. Needs PyTorch only."""

from mlt_ops._library import describe_build, has_cuda, has_extension
from mlt_ops.count_closer import count_closer
from mlt_ops.dbscan import dbscan
from mlt_ops.expand_query import expand_query
from mlt_ops.jaccard import jaccard_distance
from mlt_ops.k_reciprocal import k_reciprocal
from mlt_ops.kmeans import kmeans, kmeans_mixture, kmeans_plus_plus
from mlt_ops.knn import knn
from mlt_ops.knn_sharded import knn_sharded
from mlt_ops.largest_distance import largest_distance
from mlt_ops.rerank import rerank, rerank_in_pieces
from mlt_ops.segment_mean import segment_mean
from mlt_ops.structures import Columns, KMeansResult, Neighbors, SparseDistance, SparseRows

__all__ = [
    "Columns",
    "KMeansResult",
    "Neighbors",
    "SparseDistance",
    "SparseRows",
    "count_closer",
    "dbscan",
    "describe_build",
    "expand_query",
    "has_cuda",
    "has_extension",
    "jaccard_distance",
    "k_reciprocal",
    "kmeans",
    "kmeans_mixture",
    "kmeans_plus_plus",
    "knn",
    "knn_sharded",
    "largest_distance",
    "rerank",
    "rerank_in_pieces",
    "segment_mean",
]
