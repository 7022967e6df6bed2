"""knn: exact distances, order of ties, itself first, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import reference


def clustered(num_rows: int, dim: int, seed: int = 0) -> Tensor:
    """Unit rows around a few centres, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, dim, generator=generator)
    rows = centres[torch.randint(7, (num_rows,), generator=generator)]
    rows = torch.nn.functional.normalize(rows + 0.3 * torch.randn(num_rows, dim, generator=generator))
    rows[num_rows // 2 : num_rows // 2 + 3] = rows[:3]
    return rows


def assert_equals_reference(found: mlt_ops.Neighbors, features: Tensor, k: int, queries: Tensor | None = None) -> None:
    distance, index = reference.knn(features.cpu().numpy(), k, None if queries is None else queries.cpu().numpy())
    np.testing.assert_array_equal(found.index.cpu(), index)
    np.testing.assert_allclose(found.distance.cpu(), distance, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("num_rows", "dim", "k"), [(60, 8, 5), (200, 64, 30), (33, 3, 33), (1, 4, 1)])
def test_equals_the_reference(device: torch.device, num_rows: int, dim: int, k: int) -> None:
    features = clustered(num_rows + 8, dim)[8 if num_rows == 1 else 0 :][:num_rows].to(device)
    assert_equals_reference(mlt_ops.knn(features, k), features, k)


def test_queries(device: torch.device) -> None:
    features, queries = clustered(90, 16).to(device), clustered(25, 16, seed=1).to(device)
    found = mlt_ops.knn(features, 10, queries=queries)
    assert found.distance.shape == found.index.shape == (25, 10)
    assert_equals_reference(found, features, 10, queries)


def test_equal_rows_are_tied_at_zero_and_each_row_comes_first_itself(device: torch.device) -> None:
    features = torch.ones(50, 2048, device=device) / 2048**0.5
    found = mlt_ops.knn(features, 4)
    assert found.distance.eq(0).all()
    assert found.index[0].tolist() == [0, 1, 2, 3]
    assert found.index[1].tolist() == [1, 0, 2, 3]
    assert found.index[40].tolist() == [40, 0, 1, 2]
    assert mlt_ops.knn(features, 3, queries=features[40:41]).index.tolist() == [[0, 1, 2]]


def test_ties_go_to_the_lowest_index(device: torch.device) -> None:
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).to(device)
    assert_equals_reference(mlt_ops.knn(grid, 9), grid, 9)


def test_small_differences_far_from_the_origin(device: torch.device) -> None:
    features = (1000 + 0.01 * clustered(80, 32)).to(device)  # |x|^2 - 2 x.y + |y|^2 alone would lose every digit
    assert_equals_reference(mlt_ops.knn(features, 6), features, 6)


def test_distances_are_symmetric_bit_for_bit(device: torch.device) -> None:
    features = clustered(64, 129).to(device)
    found = mlt_ops.knn(features, 64)
    dense = torch.empty(64, 64, device=device).scatter_(1, found.index, found.distance)
    assert torch.equal(dense, dense.T)


def test_the_memory_budget_does_not_change_the_result(device: torch.device) -> None:
    features = clustered(300, 33).to(device)
    whole, parts = mlt_ops.knn(features, 12), mlt_ops.knn(features, 12, max_memory=64 * 300 * 7)
    assert torch.equal(whole.index, parts.index)
    assert torch.equal(whole.distance, parts.distance)


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_the_result() -> None:
    features = clustered(500, 128)
    torch.set_num_threads(1)
    one = mlt_ops.knn(features, 20)
    torch.set_num_threads(2)
    two = mlt_ops.knn(features, 20)
    assert torch.equal(one.index, two.index)
    assert torch.equal(one.distance, two.distance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(device: torch.device, dtype: torch.dtype) -> None:
    features = clustered(40, 16).to(device, dtype)
    found, expected = mlt_ops.knn(features, 5), mlt_ops.knn(features.float(), 5)
    assert found.distance.dtype == torch.float32
    assert torch.equal(found.index, expected.index)


def test_the_callers_precision_is_ignored_and_kept(device: torch.device) -> None:
    features = clustered(60, 256).to(device)
    expected = mlt_ops.knn(features, 5)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found = mlt_ops.knn(features, 5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.distance, expected.distance)


def test_layout_and_gradients_do_not_matter(device: torch.device) -> None:
    features = clustered(40, 16).to(device)
    strided = features.T.contiguous().T.requires_grad_()
    found = mlt_ops.knn(strided, 5)
    assert torch.equal(found.index, mlt_ops.knn(features, 5).index)
    assert not found.distance.requires_grad


def test_no_queries_give_no_rows(device: torch.device) -> None:
    found = mlt_ops.knn(clustered(20, 4).to(device), 3, queries=torch.empty(0, 4, device=device))
    assert found.distance.shape == found.index.shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_finds_what_the_cpu_finds() -> None:
    features = clustered(400, 96)
    cpu, cuda = mlt_ops.knn(features, 20), mlt_ops.knn(features.cuda(), 20)
    torch.testing.assert_close(cuda.distance.cpu(), cpu.distance, rtol=1e-5, atol=0)
    assert (cuda.index.cpu() != cpu.index).float().mean() < 1e-3  # sums may round differently


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(5), {"k": 1}, r"knn: features must be 2-D \[N, D\], got shape \(5,\)"),
        (torch.zeros(5, 2, dtype=torch.int64), {"k": 1}, "floating point, got torch.int64"),
        (torch.tensor([[0.0], [float("nan")]]), {"k": 1}, "1 of 2 rows hold NaN or infinity"),
        (torch.full((2, 2), 1e19), {"k": 1}, "too large for float32"),
        (torch.zeros(5, 2), {"k": 6}, r"k must be between 1 and the number of features \(5\), got 6"),
        (torch.zeros(5, 2), {"k": 0}, "got 0"),
        (torch.zeros(5, 2), {"k": 1, "queries": torch.zeros(1, 3)}, "must share D and device, got D=3"),
        (torch.zeros(5, 2), {"k": 1, "queries": torch.tensor([[0, float("inf")]])}, "queries must be finite"),
        (torch.zeros(5, 2), {"k": 1, "max_memory": 100}, "max_memory=100 bytes is too little, one row needs 320"),
    ],
)
def test_errors(features: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.knn(features, **options)


def test_any_integer_grid_equals_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**31), st.data())
    @hypothesis.settings(max_examples=50)
    def check(num_rows: int, dim: int, seed: int, data: object) -> None:
        features = torch.randint(-3, 4, (num_rows, dim), generator=torch.Generator().manual_seed(seed)).float()
        k = data.draw(st.integers(1, num_rows))  # type: ignore[attr-defined]
        assert_equals_reference(mlt_ops.knn(features, k), features, k)

    check()
