"""Arguments of the wrong kind: one error that names operator, argument, what was wanted and what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import mlt_ops
from tests.emulate.device import Device

pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())

ROWS = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
NEAR = mlt_ops.knn(ROWS, 8)
COLUMNS = torch.arange(21), torch.zeros(20, dtype=torch.int64)


def graph(max_distance: Any = 0.9) -> mlt_ops.SparseDistance:
    return mlt_ops.jaccard_distance(ROWS, max_distance=max_distance, k1=5, k2=2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: mlt_ops.knn(ROWS.to_sparse(), 2), ValueError, "knn: features must be dense, got torch.sparse_coo"),
        (lambda: mlt_ops.k_reciprocal(ROWS, None, k1=5), TypeError, "k_reciprocal: neighbors must be a pair of tens"),
        (lambda: mlt_ops.k_reciprocal(ROWS, (*NEAR, 1), k1=5), TypeError, "distance and index, got 3 elements"),
        (
            lambda: mlt_ops.k_reciprocal(ROWS, (NEAR.distance.numpy(), NEAR.index), k1=5),
            TypeError,
            r"k_reciprocal: neighbors.distance must be a torch.Tensor, got ndarray; torch.as_tensor",
        ),
        (lambda: mlt_ops.k_reciprocal(ROWS, NEAR, k1=5, scale=2.0), TypeError, "k_reciprocal: scale must be a torch.T"),
        (lambda: mlt_ops.expand_query(ROWS, NEAR, k2=2), ValueError, "rows must be SparseRows, got Tensor. `k_recip"),
        (lambda: graph("0.5"), ValueError, "jaccard_distance: max_distance must be a number, got '0.5'"),
        (lambda: graph(10**400), ValueError, "jaccard_distance: max_distance must be a number, got 1000"),
        (lambda: graph(torch.ones(3)), ValueError, "max_distance must be a number, got tensor"),
        (
            lambda: mlt_ops.dbscan(graph(), eps=None, min_samples=2),
            ValueError,
            "eps must be a number, got None",
        ),
        (lambda: mlt_ops.kmeans(ROWS, 3, seed=1.5), ValueError, "kmeans: seed must be a whole number, got 1.5"),
        (lambda: mlt_ops.kmeans(ROWS, 3, seed=2**64), ValueError, r"kmeans: seed must be below 2\^64, got 1844"),
        (lambda: mlt_ops.kmeans_plus_plus(ROWS, 3, seed="1"), ValueError, "kmeans_plus_plus: seed must be a whole"),
        (lambda: mlt_ops.kmeans_mixture(ROWS, [3], seed=None), ValueError, "kmeans_mixture: seed must be a whole"),
        (lambda: mlt_ops.kmeans_mixture(ROWS, 3), TypeError, "kmeans_mixture: num_clusters must be a sequence, got 3"),
        (
            lambda: mlt_ops.segment_mean(ROWS, [0] * 20, 1),
            TypeError,
            "segment_mean: labels must be a torch.Tensor",
        ),
        (
            lambda: mlt_ops.segment_mean(ROWS, torch.zeros(20, dtype=torch.int64), 1.0),
            ValueError,
            "segment_mean: num_segments must be a whole number, got 1.0",
        ),
        (
            lambda: mlt_ops.count_closer(ROWS.numpy(), COLUMNS),
            TypeError,
            "count_closer: distance must be a",
        ),
        (
            lambda: mlt_ops.count_closer(ROWS, COLUMNS[:1]),
            TypeError,
            "reference must be a pair of .*, rowptr and col",
        ),
        (
            lambda: mlt_ops.count_closer(ROWS, COLUMNS, excluded=(COLUMNS[0], [0])),
            TypeError,
            "count_closer: excluded.col must be a torch.Tensor, got list",
        ),
        (
            lambda: mlt_ops.rerank(ROWS, ROWS, lambda_value="a"),
            ValueError,
            "rerank: lambda_value must be a number",
        ),
        (
            lambda: mlt_ops.SparseRows(*COLUMNS, None, 4),
            TypeError,
            "SparseRows: value must be a torch.Tensor",
        ),
        (
            lambda: mlt_ops.SparseRows(COLUMNS[0].numpy(), COLUMNS[1], torch.ones(20), 4),
            TypeError,
            "SparseRows: rowptr must be a torch.Tensor, got ndarray",
        ),
        (lambda: mlt_ops.SparseRows(*COLUMNS, torch.ones(20), 4.0), ValueError, "SparseRows: num_cols must be a whole"),
        (
            lambda: mlt_ops.SparseDistance(*COLUMNS, torch.ones(20), 20, None),
            ValueError,
            "SparseDistance: max_distance must be a number, got None",
        ),
    ],
)
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    distance = graph()
    for number in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert torch.equal(graph(number).col, graph(0.5).col)
        labels = mlt_ops.dbscan(distance, eps=number, min_samples=np.int32(2))
        assert torch.equal(labels, mlt_ops.dbscan(distance, eps=0.5, min_samples=2))
    labels = torch.arange(20) % 7
    for found, wanted in zip(mlt_ops.segment_mean(ROWS, labels, np.uint8(7)), mlt_ops.segment_mean(ROWS, labels, 7)):
        assert torch.equal(found, wanted)
    structure = mlt_ops.SparseRows(*COLUMNS, torch.ones(20), np.int64(4))
    assert type(structure.num_cols) is int


def test_eps_and_max_distance_are_compared_in_float32() -> None:
    distance = graph(0.6)  # float32(0.6) is above 0.6
    labels = mlt_ops.dbscan(distance, eps=np.float32(0.6), min_samples=2)
    assert torch.equal(labels, mlt_ops.dbscan(distance, eps=0.6, min_samples=2))
    with pytest.raises(ValueError, match=r"dbscan: eps must be above 0 and at most 0\.6, .*, got 0\.6001"):
        mlt_ops.dbscan(distance, eps=0.6001, min_samples=2)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
def test_the_default_dtype_does_not_matter() -> None:
    farthest = float(torch.tensor(0.6, dtype=torch.float32))
    pair = torch.arange(3), torch.tensor([1, 0]), torch.full((2,), farthest, dtype=torch.float32)
    made = mlt_ops.SparseDistance(*pair, 2, 0.6)  # the value is above 0.6 in float64
    assert mlt_ops.dbscan(made, eps=0.6, min_samples=1).tolist() == [0, 0]
    distance = graph()
    assert distance.value.dtype == made.to_dense().dtype == torch.float32
    assert mlt_ops.kmeans(ROWS, 3).centroids.dtype == mlt_ops.rerank(ROWS, ROWS).dtype == torch.float32


@pytest.mark.parametrize("dim", [4, 1025])  # seeding projects wide rows
def test_the_default_device_does_not_matter(dim: int) -> None:
    rows = torch.randn(30, dim, generator=torch.Generator().manual_seed(0))

    def everything() -> list[torch.Tensor]:
        found, distance = mlt_ops.knn(rows, 5), mlt_ops.jaccard_distance(rows, max_distance=0.9, k1=5, k2=2)
        clustered, mixed = mlt_ops.kmeans(rows, 3), mlt_ops.kmeans_mixture(rows, [3, 5])[1]
        labels = mlt_ops.dbscan(distance, eps=0.5, min_samples=2)
        means = mlt_ops.segment_mean(rows, clustered.labels, 3)[0]
        columns = found.index.new_tensor(range(31)), found.index.new_zeros(30)
        checked = mlt_ops.SparseDistance(distance.rowptr, distance.col, distance.value, 30, 0.9).to_dense()
        some = [*found, checked, labels, *clustered[:2], *mixed[:2], means, mlt_ops.rerank(rows[:5], rows)]
        return [*some, mlt_ops.largest_distance(rows), mlt_ops.count_closer(rows, columns)]

    expected = everything()
    with torch.device("meta"):
        found = everything()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "call",
    [
        lambda there: mlt_ops.knn(ROWS, 2, queries=there(ROWS)),
        lambda there: mlt_ops.segment_mean(ROWS, there(COLUMNS[1]), 1),
        lambda there: mlt_ops.k_reciprocal(ROWS, (there(NEAR.distance), there(NEAR.index)), k1=5),
        lambda there: mlt_ops.k_reciprocal(ROWS, (NEAR.distance, there(NEAR.index)), k1=5),
        lambda there: mlt_ops.k_reciprocal(ROWS, NEAR, k1=5, scale=there(torch.ones(20))),
        lambda there: mlt_ops.expand_query(mlt_ops.k_reciprocal(ROWS, NEAR, k1=5), tuple(map(there, NEAR)), k2=2),
        lambda there: mlt_ops.jaccard_distance(there(ROWS), max_distance=0.6, k1=5, k2=2, neighbors=NEAR),
        lambda there: mlt_ops.SparseRows(there(COLUMNS[0]), COLUMNS[1], torch.ones(20), 1),
        lambda there: mlt_ops.rerank(ROWS, there(ROWS)),
        lambda there: mlt_ops.count_closer(there(ROWS), COLUMNS),
        lambda there: mlt_ops.count_closer(ROWS, COLUMNS, excluded=tuple(map(there, COLUMNS))),
    ],
)
def test_tensors_on_two_devices(call: Callable[[Callable[[torch.Tensor], torch.Tensor]], object]) -> None:
    """The second one is pretended."""
    with Device(), pytest.raises(ValueError, match=r"^\w+: .* (cpu.*cuda:0|cuda:0.*cpu)"):
        call(lambda tensor: tensor.to("cuda"))
