"""Camera centring takes each camera's offset out of the features."""

from __future__ import annotations

import logging

import pytest
import torch

from mlt.clustering.camera_centering import center_cameras
from mlt.structures import UNKNOWN
from mlt.utils import log


def test_equals_a_loop_over_cameras() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, generator=generator)
    camids = torch.randint(3, (40,), generator=generator) * 5 + 2
    expected = features.clone()
    for camera in camids.unique():
        expected[camids == camera] -= features[camids == camera].mean(dim=0)
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(center_cameras(features, camids), expected)


def test_offset_of_a_camera_vanishes() -> None:
    people = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    camids = torch.tensor([0] * 6 + [1] * 6)
    seen = torch.cat([people, people + torch.tensor([3.0, 0, -1, 2])])
    centred = center_cameras(seen, camids)
    torch.testing.assert_close(centred[:6], centred[6:])


def test_camera_with_one_image_loses_the_mean_of_all() -> None:
    features = torch.tensor([[1.0, 0], [0, 1], [3, 3]])
    centred = center_cameras(features, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(centred.norm(dim=1), torch.ones(3))
    expected = features[2] - features.mean(dim=0)
    torch.testing.assert_close(centred[2], expected / expected.norm())


def test_switches_off_where_a_camera_is_unknown_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    log._said.clear()
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert center_cameras(features, torch.tensor([0, 1, UNKNOWN, 1])) is features
    assert len([r for r in caplog.records if "centring is off" in r.message]) == 1


def test_gives_the_same_bits_each_time(device: torch.device) -> None:
    """Of many rows for each camera, which concurrent additions would sum in another order at every call."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(20000, 16, generator=generator).to(device)
    camids = torch.randint(4, (20000,), generator=generator).to(device)
    first = center_cameras(features, camids)
    assert all(torch.equal(center_cameras(features, camids), first) for _ in range(5))


def test_no_image() -> None:
    assert center_cameras(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 3)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="3 features but 2 camera ids"):
        center_cameras(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
