"""dbscan: scikit-learn's labels on the same graph, ambiguous border points among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import SparseDistance, reference

pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


def graph(dense: Tensor, max_distance: float = 1.0) -> SparseDistance:
    """The entries of a symmetric matrix up to max_distance."""
    row, col = (dense <= max_distance).nonzero(as_tuple=True)
    rowptr = torch.nn.functional.pad((dense <= max_distance).sum(dim=1).cumsum(0), (1, 0))
    return SparseDistance(rowptr, col, dense[row, col], len(dense), max_distance)


def random_graph(num_rows: int, seed: int, density: float = 2.5) -> Tensor:
    """Symmetric distances of 0.5 or 1.5; about `density` neighbours per row, so borders are often shared."""
    generator = torch.Generator().manual_seed(seed)
    near = torch.rand(num_rows, num_rows, generator=generator).triu(1) > 1 - density / max(num_rows, 1)
    dense = torch.where(near | near.T, 0.5, 1.5)
    return dense.fill_diagonal_(0)


def path(device: torch.device | str = "cpu") -> SparseDistance:
    """Two triangles, 0 1 2 and 4 5 6, and row 3 at 0.5 from one corner of each: a border point of both."""
    dense = torch.full((8, 8), 2.0).fill_diagonal_(0)
    for i, j in [(0, 1), (0, 2), (1, 2), (4, 5), (4, 6), (5, 6), (2, 3), (3, 4)]:
        dense[i, j] = dense[j, i] = 0.5
    return graph(dense.to(device))


def test_a_border_point_joins_the_lowest_numbered_cluster(device: torch.device) -> None:
    labels = mlt_ops.dbscan(path(device), eps=0.5, min_samples=4)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
    assert labels.dtype == torch.int64


def test_one_graph_serves_several_eps(device: torch.device) -> None:
    distance = path(device)
    assert mlt_ops.dbscan(distance, eps=0.4, min_samples=1).tolist() == list(range(8))
    assert mlt_ops.dbscan(distance, eps=0.4, min_samples=2).tolist() == [-1] * 8
    assert mlt_ops.dbscan(distance, eps=1.0, min_samples=3).tolist() == [0] * 7 + [-1]
    assert mlt_ops.dbscan(distance, eps=1.0, min_samples=1).tolist() == [0] * 7 + [1]


def test_a_row_is_its_own_neighbour_stored_or_not(device: torch.device) -> None:
    tensors = torch.tensor([0, 1, 2], device=device), torch.tensor([1, 0], device=device)
    pair = SparseDistance(*tensors, torch.full((2,), 0.5, device=device), 2, 0.5)
    assert mlt_ops.dbscan(pair, eps=0.5, min_samples=2).tolist() == [0, 0]
    assert mlt_ops.dbscan(pair, eps=0.5, min_samples=3).tolist() == [-1, -1]


@pytest.mark.parametrize("min_samples", [1, 3, 4, 6])
def test_equals_scikit_learn(device: torch.device, min_samples: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    ambiguous = 0
    for seed in range(40):
        dense = random_graph(60, seed)
        labels = mlt_ops.dbscan(graph(dense.to(device)), eps=0.5, min_samples=min_samples).cpu().numpy()
        model = cluster.DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit(dense.numpy())
        np.testing.assert_array_equal(labels, model.labels_)
        np.testing.assert_array_equal(labels, reference.dbscan(dense.numpy(), 0.5, min_samples))
        core = np.zeros(60, dtype=bool)
        core[model.core_sample_indices_] = True
        near = (dense.numpy() <= 0.5) & core
        ambiguous += sum(len(set(labels[near[i]])) > 1 for i in np.flatnonzero(~core))
    assert min_samples != 4 or ambiguous > 10  # else the rule for shared borders is not tested


def test_eps_is_compared_in_float32(device: torch.device) -> None:
    dense = torch.tensor([[0, 0.6], [0.6, 0]], device=device)  # float32 0.6 is more than 0.6
    assert mlt_ops.dbscan(graph(dense, 0.6), eps=0.6, min_samples=2).tolist() == [0, 0]


def test_long_chains(device: torch.device) -> None:
    num_rows = 20_000
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    row = torch.cat([order[:-1], order[1:]])
    col = torch.cat([order[1:], order[:-1]])
    key = (row * num_rows + col).sort().values
    rowptr = torch.searchsorted(key, torch.arange(num_rows + 1) * num_rows)
    chain = SparseDistance(rowptr.to(device), (key % num_rows).to(device), torch.ones(len(key), device=device),
                           num_rows, 1.0)  # fmt: skip
    assert mlt_ops.dbscan(chain, eps=1.0, min_samples=2).eq(0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_cpus_labels() -> None:
    for seed in range(20):
        dense = random_graph(500, seed)
        cpu = mlt_ops.dbscan(graph(dense), eps=0.5, min_samples=4)
        assert torch.equal(mlt_ops.dbscan(graph(dense.cuda()), eps=0.5, min_samples=4).cpu(), cpu)


def test_opcheck(device: torch.device) -> None:
    distance = path(device)
    arguments = (distance.rowptr, distance.col, distance.value, 0.5, 4)
    torch.library.opcheck(torch.ops.mlt_ops.dbscan.default, arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps must be above 0 and at most 1.0"),
        ({"eps": -1.0}, "got -1.0"),
        ({"eps": float("nan")}, "got nan"),
        ({"eps": 1.1}, "the max_distance of the graph, got 1.1. Build the graph with a larger max_distance"),
        ({"min_samples": 0}, "min_samples must be at least 1, got 0"),
        ({"min_samples": 2.5}, "min_samples must be a whole number, got 2.5"),
        ({"distance": torch.zeros(3, 3)}, "distance must be a SparseDistance, got Tensor"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.dbscan(**({"distance": path(), "eps": 0.5, "min_samples": 4} | changes))
    with pytest.raises(RuntimeError, match="min_samples must be at least 1"):
        torch.ops.mlt_ops.dbscan(*list(vars(path()).values())[:3], 0.5, 0)


def test_random_graphs_equal_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=100)
    @hypothesis.given(
        num_rows=st.integers(1, 50), density=st.floats(0, 8), levels=st.integers(1, 5), eps=st.floats(0.1, 1),
        min_samples=st.integers(1, 7), seed=st.integers(0, 2**16),
    )  # fmt: skip
    def check(num_rows: int, density: float, levels: int, eps: float, min_samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        near = torch.rand(num_rows, num_rows, generator=generator) < density / num_rows / 2
        level = torch.randint(1, levels + 1, (num_rows, num_rows), generator=generator).float() / levels
        dense = torch.where(near, level, 2.0)
        dense = torch.minimum(dense, dense.T).fill_diagonal_(0)
        found = mlt_ops.dbscan(graph(dense), eps=eps, min_samples=min_samples)
        assert found.tolist() == reference.dbscan(dense.numpy(), np.float32(eps), min_samples).tolist()

    check()
