"""Operators for clustering embeddings: exact, sparse, and the same on CPU and CUDA. Needs PyTorch only."""

from mlt_ops._library import describe_build, has_cuda, has_extension

__all__ = ["describe_build", "has_cuda", "has_extension"]
