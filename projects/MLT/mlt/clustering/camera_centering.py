"""Camera centring: take out of the features what all images of a camera share."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

import mlt_ops
from mlt.structures import UNKNOWN
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)


def center_cameras(features: Tensor, camids: Tensor) -> Tensor:
    """Subtract each camera's mean feature and bring the rows back to unit norm.

    Uses camera ids only. Where any camera is UNKNOWN centring switches off for the whole set, because centred and
    plain features cannot be compared, and a warning says so once. A camera with a single image has no mean of its own
    (the difference would be zero); the mean of all images stands in for it.

    Query and gallery must be centred in one call, so that both lose the same means.

    Args:
        features: [N, D]
        camids: int64 [N]

    Returns:
        [N, D] unit rows, or `features` itself where cameras are unknown.

    Raises:
        ValueError: the lengths differ.
    """
    if len(features) != len(camids):
        raise ValueError(f"center_cameras: {len(features)} features but {len(camids)} camera ids")
    camids = camids.to(features.device)
    if bool((camids == UNKNOWN).any()):
        warn_once(logger, "Camera centring is off: there are images whose camera is not known.")
        return features
    if not len(features):
        return features
    _, camera, count = camids.unique(return_inverse=True, return_counts=True)
    means, _ = mlt_ops.segment_mean(features, camera, len(count))  # the same bits on every device
    means = torch.where(count[:, None] > 1, means, features.mean(dim=0))
    return F.normalize(features - means[camera], dim=1)
