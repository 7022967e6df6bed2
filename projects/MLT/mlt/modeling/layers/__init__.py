"""Layers that torch does not have: pooling, batch norms, IBN, non-local."""

from mlt.modeling.layers.batch_norm import DomainBatchNorm, GroupBatchNorm, convert_batch_norm, running_statistics
from mlt.modeling.layers.ibn import IBN
from mlt.modeling.layers.non_local import NonLocal
from mlt.modeling.layers.pooling import GeneralizedMeanPoolingP, GlobalAvgPool, build_pool_layer
from mlt.modeling.layers.precision import full_precision

__all__ = [
    "IBN",
    "DomainBatchNorm",
    "GeneralizedMeanPoolingP",
    "GlobalAvgPool",
    "GroupBatchNorm",
    "NonLocal",
    "build_pool_layer",
    "convert_batch_norm",
    "full_precision",
    "running_statistics",
]
