"""Weights in and out: ours and those of other toolboxes."""

from mlt.modeling.weights.export import net_tensors, stem_differences, to_fastreid, to_torchvision
from mlt.modeling.weights.load import is_backbone_only, load_weights, num_classes_of
from mlt.modeling.weights.peers import identify, stem_of
from mlt.modeling.weights.report import LoadReport

__all__ = [
    "LoadReport",
    "identify",
    "is_backbone_only",
    "load_weights",
    "net_tensors",
    "num_classes_of",
    "stem_differences",
    "stem_of",
    "to_fastreid",
    "to_torchvision",
]
