"""Losses, one in a file; float32 inside, and 0 with a graph for an empty set."""

from mlt.modeling.losses.base import ReidLoss
from mlt.modeling.losses.build import build_losses
from mlt.modeling.losses.circle import CircleLoss
from mlt.modeling.losses.cross_entropy import CrossEntropyLoss
from mlt.modeling.losses.triplet import TripletLoss, euclidean_distance

__all__ = ["CircleLoss", "CrossEntropyLoss", "ReidLoss", "TripletLoss", "build_losses", "euclidean_distance"]
