"""rerank: published distances, memory budget, edge cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import reference

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


def test_published_distances(device: torch.device) -> None:
    golden = np.load(GOLDEN / "rerank.npz")
    query, gallery = (torch.from_numpy(golden[name]).to(device) for name in ("query", "gallery"))
    found = mlt_ops.rerank(query, gallery, k1=int(golden["k1"]), k2=int(golden["k2"]),
                           lambda_value=float(golden["lambda_value"]))  # fmt: skip
    assert found.dtype == torch.float32
    assert np.abs(found.cpu().numpy() - golden["final_dist"]).max() < 2e-6


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (500, 4, 0.5)])
def test_equals_the_reference(
    device: torch.device, clustered: Callable[..., Tensor], k1: int, k2: int, lambda_value: float
) -> None:
    query, gallery = clustered(130).split([40, 90])
    found = mlt_ops.rerank(query.to(device), gallery.to(device), k1=k1, k2=k2, lambda_value=lambda_value)
    wanted = reference.rerank(query.numpy(), gallery.numpy(), k1, k2, lambda_value)
    torch.testing.assert_close(found.cpu(), torch.from_numpy(wanted).float(), rtol=0, atol=4e-6)


def test_small_budgets_give_the_same(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    query, gallery = clustered(130).to(device).split([40, 90])
    wanted = mlt_ops.rerank(query, gallery)
    torch.testing.assert_close(mlt_ops.rerank(query, gallery, max_memory=3 * 64 * 130), wanted, rtol=0, atol=2e-6)


def test_pieces_are_the_whole(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    query, gallery = clustered(130).to(device).split([40, 90])
    pieces = list(mlt_ops.rerank_in_pieces(query, gallery, max_memory=24 * 130 * 15))
    assert [(some.start, some.stop) for some, _ in pieces] == [(0, 15), (15, 30), (30, 40)]
    whole = torch.cat([distance for _, distance in pieces])
    torch.testing.assert_close(whole, mlt_ops.rerank(query, gallery), rtol=0, atol=2e-6)


def test_pieces_never_hold_the_whole(peak_bytes: Callable[..., int], clustered: Callable[..., Tensor]) -> None:
    query, gallery = clustered(3000).split([1500, 1500])
    budget = 24 * 3000 * 50

    def consume() -> None:
        for _, distance in mlt_ops.rerank_in_pieces(query, gallery, max_memory=budget):
            del distance

    whole = 4 * 1500 * 1500
    assert peak_bytes(consume) < 0.75 * whole
    assert peak_bytes(lambda: mlt_ops.rerank(query, gallery, max_memory=budget)) > whole


def test_nobody_asks_nothing_is_there_and_all_are_equal(device: torch.device) -> None:
    rows = torch.ones(5, 3, device=device)
    assert mlt_ops.rerank(rows[:0], rows).shape == (0, 5)
    assert mlt_ops.rerank(rows, rows[:0]).shape == (5, 0)
    assert mlt_ops.rerank(rows[:1], rows[:1]).tolist() == [[0]]
    assert torch.isfinite(mlt_ops.rerank(rows, rows)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(3, 4)}, "query and gallery must share D and device, got D=4 on cpu and D=2"),
        ({"gallery": torch.full((3, 2), float("nan"))}, "gallery must be finite"),
        ({"k1": 0}, "rerank: k1 must be at least 1"),
        ({"k2": 0}, "k2 must be at least 1"),
        ({"lambda_value": 1.5}, "lambda_value must be between 0 and 1, got 1.5"),
        ({"max_memory": 10}, "max_memory=10 bytes is too little"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.rerank(**({"query": torch.ones(3, 2), "gallery": torch.ones(3, 2)} | changes))
