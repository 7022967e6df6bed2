"""Cluster means against a loop."""

from __future__ import annotations

import torch

from mlt.clustering.centroids import cluster_means
from mlt.structures import PseudoLabels


def test_means_of_every_group_outliers_left_out() -> None:
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([torch.arange(40) % 4 - 1, torch.arange(40) % 6])
    means = cluster_means(features, PseudoLabels(labels, (3, 7)))
    assert [tuple(m.shape) for m in means] == [(3, 5), (7, 5)]
    for row, group in zip(labels, means, strict=True):
        for k, mean in enumerate(group):
            members = features[row == k]
            torch.testing.assert_close(mean, members.mean(dim=0) if len(members) else torch.zeros(5))
