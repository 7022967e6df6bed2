"""Losses, one in a file; float32 inside, and 0 with a graph for an empty set."""

from mlt.modeling.losses.base import ReidLoss
from mlt.modeling.losses.build import build_losses
from mlt.modeling.losses.circle import CircleLoss
from mlt.modeling.losses.cross_entropy import CrossEntropyLoss
from mlt.modeling.losses.mutual import MutualLoss
from mlt.modeling.losses.soft_cross_entropy import SoftCrossEntropyLoss
from mlt.modeling.losses.soft_triplet import SoftTripletLoss
from mlt.modeling.losses.triplet import HardPairs, TripletLoss, euclidean_distance, mine_hardest
from mlt.modeling.losses.uncertainty import reliability, uncertainty

__all__ = [
    "CircleLoss",
    "CrossEntropyLoss",
    "HardPairs",
    "MutualLoss",
    "ReidLoss",
    "SoftCrossEntropyLoss",
    "SoftTripletLoss",
    "TripletLoss",
    "build_losses",
    "euclidean_distance",
    "mine_hardest",
    "reliability",
    "uncertainty",
]
