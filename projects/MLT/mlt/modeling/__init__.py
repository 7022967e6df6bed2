"""Backbones, layers, heads, losses, memory, teacher and meta-architectures."""

from mlt.modeling.backbones import ResNet, build_backbone
from mlt.modeling.build import build_model
from mlt.modeling.heads import EmbeddingHead, HeadOutput, MixtureLabelHead
from mlt.modeling.losses import CircleLoss, CrossEntropyLoss, TripletLoss
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.memory import MemoryBank
from mlt.modeling.meta_arch import Baseline, MixtureLabelTransport, ReidModel
from mlt.modeling.weights import LoadReport, load_weights

__all__ = [
    "Baseline",
    "CircleLoss",
    "CrossEntropyLoss",
    "EmbeddingHead",
    "HeadOutput",
    "LoadReport",
    "MeanTeacher",
    "MemoryBank",
    "MixtureLabelHead",
    "MixtureLabelTransport",
    "ReidModel",
    "ResNet",
    "TripletLoss",
    "build_backbone",
    "build_model",
    "load_weights",
]
