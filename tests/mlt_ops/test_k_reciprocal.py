"""k_reciprocal: the reference's weights, windows, rows crowded out of their own lists, checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import reference
from mlt_ops.k_reciprocal import mutual_neighbors, window_sizes

pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


def expected(features: Tensor, neighbors: mlt_ops.Neighbors, **options: Any) -> Tensor:
    distance, index = (tensor.cpu().numpy() for tensor in neighbors)
    scale = options.pop("scale", None)
    dense = reference.k_reciprocal(
        features.cpu().numpy(), distance, index, scale=None if scale is None else scale.cpu().numpy(), **options
    )
    return torch.from_numpy(dense).float()


@pytest.mark.parametrize(
    ("k1", "window", "sizes"),
    [
        (30, "clustering", (30, 16)),
        (15, "clustering", (15, 9)),  # 7.5 rounds to the even 8
        (25, "clustering", (25, 13)),  # 12.5 rounds to the even 12
        (1, "clustering", (1, 1)),
        (20, "reranking", (21, 11)),
        (1, "reranking", (2, 1)),
    ],
)
def test_windows(k1: int, window: Any, sizes: tuple[int, int]) -> None:
    assert window_sizes(k1, window, "test") == sizes


@pytest.mark.parametrize("window", ["clustering", "reranking"])
@pytest.mark.parametrize(("num_rows", "k1"), [(200, 15), (120, 8), (60, 1), (80, 2)])
def test_equals_the_reference(
    device: torch.device, clustered: Callable[..., Tensor], num_rows: int, k1: int, window: Any
) -> None:
    features = clustered(num_rows).to(device)
    neighbors = mlt_ops.knn(features, k1 + 4)  # more than are used
    rows = mlt_ops.k_reciprocal(features, neighbors, k1=k1, window=window)
    wanted = expected(features, neighbors, k1=k1, window=window)
    assert torch.equal(rows.to_dense().cpu() > 0, wanted > 0)
    torch.testing.assert_close(rows.to_dense().cpu(), wanted, rtol=2e-6, atol=1e-7)
    assert (rows.num_rows, rows.num_cols) == (num_rows, num_rows)


def test_expansion_adds_rows_outside_the_neighbour_list(clustered: Callable[..., Tensor]) -> None:
    features = clustered(300, noise=0.8)
    neighbors = mlt_ops.knn(features, 12)
    rows = mlt_ops.k_reciprocal(features, neighbors, k1=12)
    listed = (neighbors.index[rows.row_of_entries()] == rows.col[:, None]).any(dim=1)
    assert not listed.all()  # else the distances measured by the operator are not tested
    torch.testing.assert_close(rows.to_dense(), expected(features, neighbors, k1=12), rtol=2e-6, atol=1e-7)


def test_scale_divides_the_squared_distance(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    features = 3 * clustered(90).to(device)
    neighbors, scale = mlt_ops.knn(features, 11), torch.linspace(0.5, 20, 90, device=device)
    rows = mlt_ops.k_reciprocal(features, neighbors, k1=10, window="reranking", scale=scale)
    wanted = expected(features, neighbors, k1=10, window="reranking", scale=scale)
    torch.testing.assert_close(rows.to_dense().cpu(), wanted, rtol=5e-6, atol=1e-7)


def test_weights_that_underflow_are_zero(device: torch.device) -> None:
    features = torch.tensor([[0.0], [1.0], [20.0]], device=device)
    rows = mlt_ops.k_reciprocal(features, mlt_ops.knn(features, 3), k1=3)
    assert rows.to_dense()[2].tolist() == [0, 0, 1]


def test_a_row_crowded_out_by_its_copies_belongs_to_its_own_set(device: torch.device) -> None:
    features = torch.ones(6, 4, device=device)
    index = torch.tensor([[0, 1]] * 6, device=device)  # a search that prefers the lowest index, itself or not
    rows = mlt_ops.k_reciprocal(features, (torch.zeros(6, 2, device=device), index), k1=2)
    assert rows.to_dense()[5].tolist() == [0, 0, 0, 0, 0, 1]
    assert rows.to_dense()[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]


def test_fewer_rows_than_k1_and_none(device: torch.device) -> None:
    features = torch.eye(3, device=device)
    rows = mlt_ops.k_reciprocal(features, mlt_ops.knn(features, 3), k1=30)
    assert torch.equal(rows.to_dense() > 0, torch.ones(3, 3, dtype=torch.bool, device=device))
    empty = torch.zeros(0, 5, device=device)
    none = mlt_ops.k_reciprocal(empty, (torch.zeros(0, 4, device=device), empty[:, :4].long()), k1=4)
    assert (none.num_rows, none.nnz) == (0, 0)


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_a_bit(clustered: Callable[..., Tensor]) -> None:
    features = clustered(1500, 64)
    neighbors = mlt_ops.knn(features, 15)
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(mlt_ops.k_reciprocal(features, neighbors, k1=15))
    for other in found[1:]:
        assert all(map(torch.equal, vars(found[0]).values(), list(vars(other).values())[:3]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_cpus_bits(clustered: Callable[..., Tensor]) -> None:
    features = clustered(3000, 300)
    neighbors = mlt_ops.knn(features, 31)
    on_gpu = mlt_ops.Neighbors(*(tensor.cuda() for tensor in neighbors))
    for window in ("clustering", "reranking"):
        cpu = mlt_ops.k_reciprocal(features, neighbors, k1=30, window=window)
        cuda = mlt_ops.k_reciprocal(features.cuda(), on_gpu, k1=30, window=window)
        assert all(torch.equal(getattr(cpu, name), getattr(cuda, name).cpu()) for name in ("rowptr", "col", "value"))


def test_opcheck(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    features = clustered(40).to(device)
    distance, index = mlt_ops.knn(features, 6)
    index = index.int()
    full = mutual_neighbors(index, 6)
    half = mutual_neighbors(index, 4)
    order = torch.arange(40, device=device).int()
    arguments = (features, order, distance, index, full, half, features.new_ones(40), 0, 40)
    torch.library.opcheck(torch.ops.mlt_ops.mutual_neighbors.default, (index, 6, 3, 40))
    torch.library.opcheck(torch.ops.mlt_ops.k_reciprocal.default, arguments)


def test_inputs_are_converted_and_detached(clustered: Callable[..., Tensor]) -> None:
    features = clustered(50)
    distance, index = mlt_ops.knn(features, 7)
    strided = features.T.contiguous().T.requires_grad_()
    rows = mlt_ops.k_reciprocal(strided, (distance.double(), index.T.contiguous().T), k1=7)
    plain = mlt_ops.k_reciprocal(features, (distance, index), k1=7)
    assert torch.equal(rows.value, plain.value)
    assert not rows.value.requires_grad


FEATURES, DISTANCE, INDEX = torch.eye(4), torch.zeros(4, 3), torch.arange(4)[:, None].repeat(1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(4)}, "features must be 2-D"),
        ({"features": torch.full((4, 4), float("nan"))}, "features must be finite, but 4 of 4 rows"),
        ({"features": torch.tensor([[float("inf"), 0]] * 4)}, "features must be finite"),
        ({"neighbors": (DISTANCE[:3], INDEX)}, r"neighbors.distance must be floating \[4, k\] on cpu"),
        ({"neighbors": (DISTANCE, INDEX.float())}, "neighbors.index must be int64 or int32"),
        ({"neighbors": (DISTANCE, INDEX + 1)}, "neighbors.index must be between 0 and 3, got 1 to 4"),
        ({"neighbors": (DISTANCE, INDEX - 1)}, "got -1 to 2"),
        ({"neighbors": (DISTANCE - 1, INDEX)}, "neighbors.distance must be finite and not negative"),
        ({"neighbors": (DISTANCE * float("nan"), INDEX)}, "neighbors.distance must be finite"),
        ({"neighbors": (DISTANCE[:, :2], INDEX)}, "neighbors needs 3 columns here"),
        ({"k1": 4}, r"neighbors needs 4 columns here, got distance \[4, 3\]"),
        ({"neighbors": (DISTANCE.double() + 1e39, INDEX)}, "neighbors.distance must be finite"),
        ({"neighbors": (DISTANCE + 90, INDEX)}, "must begin with each row's distance to itself.* 87 times its scale"),
        ({"k1": 0}, "k1 must be at least 1, got 0"),
        ({"k1": 2.0}, "k1 must be a whole number, got 2.0"),
        ({"k1": 1 << 70}, r"k1 must be below 2\^63"),
        ({"window": "both"}, "window must be 'clustering' or 'reranking', got 'both'"),
        ({"scale": torch.ones(3)}, r"scale must be floating \[4\]"),
        ({"scale": torch.zeros(4)}, "scale must be positive"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": FEATURES, "neighbors": (DISTANCE, INDEX), "k1": 3} | changes
    with pytest.raises(ValueError, match=message):
        mlt_ops.k_reciprocal(**arguments)


@pytest.mark.parametrize(
    ("position", "bad", "message"),
    [
        (0, FEATURES.double(), "features must be float32"),
        (1, torch.arange(3).int(), "all arguments must have 4 rows, got 3"),
        (1, torch.arange(4), "order must be int32"),
        (2, DISTANCE[:, :2], "distance must be contiguous"),
        (3, INDEX, "index must be int32"),
        (4, torch.zeros(4, 5, dtype=torch.int32), "full must not have more columns"),
        (5, torch.zeros(3, 2, dtype=torch.int32), "all arguments must have 4 rows, got 3"),
        (8, 5, "rows 0 to 5 are not within 0 to 4"),
    ],
)
def test_the_operator_checks_its_arguments(position: int, bad: Any, message: str) -> None:
    sets = INDEX.int()
    arguments = [FEATURES, torch.arange(4).int(), DISTANCE, sets, sets, sets, torch.ones(4), 0, 4]
    arguments[position] = bad
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mlt_ops.k_reciprocal(*arguments)


def test_reference_by_hand() -> None:
    """Rows 0, 1 are mutual; 2 has 1 as its neighbour, which does not have 2."""
    features = np.array([[0.0], [1.0], [3.0]])
    index = np.array([[0, 1], [1, 0], [2, 1]])
    rows = reference.k_reciprocal(features, np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]]), index, k1=2)
    near = np.exp(-1) / (1 + np.exp(-1))
    np.testing.assert_allclose(rows, [[1 - near, near, 0], [near, 1 - near, 0], [0, 0, 1]])


def test_random_inputs_equal_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        num_rows=st.integers(1, 40), dim=st.integers(1, 5), k1=st.integers(1, 12), levels=st.integers(1, 4),
        window=st.sampled_from(["clustering", "reranking"]), scaled=st.booleans(), seed=st.integers(0, 2**16),
    )  # fmt: skip
    def check(num_rows: int, dim: int, k1: int, levels: int, window: Any, scaled: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randint(levels, (num_rows, dim), generator=generator).float()  # many ties
        scale = 1 + torch.rand(num_rows, generator=generator) if scaled else None
        neighbors = mlt_ops.knn(features, min(k1 + 1, num_rows))
        found = mlt_ops.k_reciprocal(features, neighbors, k1=k1, window=window, scale=scale).to_dense()
        wanted = expected(features, neighbors, k1=k1, window=window, scale=scale)
        assert torch.equal(found > 0, wanted > 0)
        torch.testing.assert_close(found, wanted, rtol=4e-6, atol=0)

    check()
