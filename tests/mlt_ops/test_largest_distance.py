"""largest_distance: the reference's numbers, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import reference


@pytest.mark.parametrize("max_memory", [None, 8 * 70, 8 * 70 * 9])
def test_equals_the_reference(device: torch.device, clustered: Callable[..., Tensor], max_memory: int | None) -> None:
    features = 3 + clustered(70)
    found = mlt_ops.largest_distance(features.to(device), max_memory=max_memory)
    np.testing.assert_allclose(found.cpu(), reference.largest_distance(features.numpy()), rtol=1e-5)


def test_equal_rows_can_be_divided_by(device: torch.device) -> None:
    found = mlt_ops.largest_distance(torch.ones(4, 3, device=device))
    assert (found > 0).all()
    assert (0 / found == 0).all()
    assert mlt_ops.largest_distance(torch.ones(1, 3, device=device)).shape == (1,)
    assert mlt_ops.largest_distance(torch.ones(0, 3, device=device)).shape == (0,)


def test_it_is_a_scale(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    """Distances times a number change nothing where they are divided by the largest."""
    if not mlt_ops.has_extension():
        pytest.skip(mlt_ops.describe_build())
    graphs = [
        mlt_ops.jaccard_distance(rows, max_distance=0.8, k1=9, window="reranking", scale=mlt_ops.largest_distance(rows))
        for rows in (clustered(60).to(device), 2 * clustered(60).to(device))
    ]
    torch.testing.assert_close(graphs[1].to_dense(), graphs[0].to_dense())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="largest_distance: max_memory=79 bytes is too little, one row needs 80"):
        mlt_ops.largest_distance(torch.ones(10, 3), max_memory=79)
    with pytest.raises(ValueError, match=r"largest_distance: .*NaN"):
        mlt_ops.largest_distance(torch.full((2, 3), torch.nan))
