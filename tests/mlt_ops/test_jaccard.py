"""jaccard_distance: published distances, cut-off, symmetry, degenerate inputs, interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import SparseDistance, reference
from mlt_ops import _sparse as sparse

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


def assert_same_bits(one: SparseDistance, other: SparseDistance) -> None:
    for name in ("rowptr", "col", "value"):
        assert torch.equal(getattr(one, name).cpu(), getattr(other, name).cpu()), name


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_published_distances_and_labels(device: torch.device, case: str) -> None:
    golden = np.load(GOLDEN / f"jaccard_{case}.npz")
    options = {"k1": int(golden["k1"]), "k2": int(golden["k2"])}
    features = torch.from_numpy(golden["features"]).to(device)
    every = mlt_ops.jaccard_distance(features, max_distance=1.0, **options)
    assert np.abs(every.to_dense().cpu().numpy() - golden["jaccard"]).max() < 2e-6
    near = mlt_ops.jaccard_distance(features, max_distance=0.6, **options)
    for eps in (0.4, 0.5, 0.6):
        labels = golden[f"dbscan_eps{eps}_min4"]
        assert mlt_ops.dbscan(near, eps=eps, min_samples=4).tolist() == labels.tolist()
        assert mlt_ops.dbscan(every, eps=eps, min_samples=4).tolist() == labels.tolist()


@pytest.mark.parametrize(("num_rows", "k1", "k2"), [(150, 12, 4), (90, 7, 1), (40, 30, 6), (9, 30, 6), (60, 3, 8)])
def test_equals_the_reference(
    device: torch.device, clustered: Callable[..., Tensor], num_rows: int, k1: int, k2: int
) -> None:
    features = clustered(num_rows).to(device)
    distance = mlt_ops.jaccard_distance(features, max_distance=1, k1=k1, k2=k2)
    wanted = torch.from_numpy(reference.jaccard_distance(features.cpu().numpy(), k1, k2)).float()
    torch.testing.assert_close(distance.to_dense().cpu(), wanted, rtol=0, atol=2e-6)


def test_the_result_is_a_valid_symmetric_graph(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    distance = mlt_ops.jaccard_distance(clustered(300).to(device), max_distance=0.7, k1=15)
    SparseDistance(*vars(distance).values())  # checks the structure, and symmetry bit for bit
    assert distance.to_dense().diagonal().eq(0).all()
    assert distance.value.max() <= 0.7


def test_the_cut_off_only_leaves_out(clustered: Callable[..., Tensor]) -> None:
    features = clustered(200)
    full = mlt_ops.jaccard_distance(features, max_distance=2.0, k1=12).to_dense()
    near = mlt_ops.jaccard_distance(features, max_distance=0.5, k1=12)
    assert torch.equal(near.to_dense(), torch.where(full <= 0.5, full, 1.0))
    assert full.lt(1).any(dim=1).all()
    assert full.max() == 1


def test_pairs_with_nothing_in_common_are_not_stored(device: torch.device) -> None:
    features = torch.tensor([[0.0], [0.1], [5.0], [5.1]], device=device)
    distance = mlt_ops.jaccard_distance(features, max_distance=1.0, k1=2, k2=1)
    assert distance.rowptr.tolist() == [0, 2, 4, 6, 8]
    assert distance.col.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_neighbors_may_come_from_elsewhere(clustered: Callable[..., Tensor]) -> None:
    features = clustered(150)
    distance, index = mlt_ops.knn(features, 20)
    given = mlt_ops.jaccard_distance(features, max_distance=0.6, k1=12, neighbors=(distance, index))
    assert_same_bits(given, mlt_ops.jaccard_distance(features, max_distance=0.6, k1=12))
    unlike = mlt_ops.jaccard_distance(features, max_distance=0.6, k1=12, neighbors=(4 * distance, index))
    assert not torch.equal(given.value, unlike.value)


def test_thousands_of_equal_images(device: torch.device) -> None:
    features = torch.ones(3000, 8, device=device) / 8**0.5
    distance = mlt_ops.jaccard_distance(features, max_distance=0.6)
    labels = mlt_ops.dbscan(distance, eps=0.6, min_samples=4)
    assert distance.row_of_entries()[distance.col == 0].numel() > 0
    assert torch.isfinite(distance.value).all()
    assert int(labels[0]) == 0  # the first rows are in one another's lists; later ones are crowded out by them


def test_no_rows_and_one_row(device: torch.device) -> None:
    none = mlt_ops.jaccard_distance(torch.zeros(0, 3, device=device), max_distance=0.6)
    assert (none.num_rows, none.nnz, none.rowptr.tolist()) == (0, 0, [0])
    assert mlt_ops.dbscan(none, eps=0.6, min_samples=4).shape == (0,)
    one = mlt_ops.jaccard_distance(torch.ones(1, 3, device=device), max_distance=0.6)
    assert one.to_dense().tolist() == [[0]]


@pytest.mark.usefixtures("restore_threads")
def test_neither_threads_nor_row_chunks_change_a_bit(
    clustered: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = clustered(1200)
    neighbors = mlt_ops.knn(features, 30)
    found = []
    for threads, rows_per_call in ((1, 5000), (2, 5000), (4, 5000), (2, 77)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(sparse, "_ROWS_PER_CALL", rows_per_call)
        found.append(mlt_ops.jaccard_distance(features, max_distance=0.8, neighbors=neighbors))
    for other in found[1:]:
        assert_same_bits(found[0], other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("max_distance", [0.6, 1.0])
def test_cuda_gives_the_cpus_bits(clustered: Callable[..., Tensor], max_distance: float) -> None:
    features = clustered(4000, 64)
    neighbors = mlt_ops.knn(features, 30)
    on_gpu = mlt_ops.Neighbors(*(tensor.cuda() for tensor in neighbors))
    cpu = mlt_ops.jaccard_distance(features, max_distance=max_distance, neighbors=neighbors)
    assert_same_bits(cpu, mlt_ops.jaccard_distance(features.cuda(), max_distance=max_distance, neighbors=on_gpu))


def test_opcheck(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    features = clustered(60).to(device)
    rows = mlt_ops.k_reciprocal(features, mlt_ops.knn(features, 8), k1=8)
    csr = (rows.rowptr, rows.col, rows.value)
    columns = sparse.transpose(*csr, rows.num_cols)
    torch.library.opcheck(torch.ops.mlt_ops.jaccard.default, (*csr, *columns, 0.6, 0, 60))
    if device.type == "cpu":  # on CUDA a stable sort does it
        places = rows.rowptr[:-1].clone(), torch.empty_like(rows.col), torch.empty_like(rows.value)
        torch.library.opcheck(torch.ops.mlt_ops.scatter_columns.default, (*csr, 0, 60, *places))
        order = torch.arange(59, -1, -1).int()
        torch.library.opcheck(torch.ops.mlt_ops.mirror.default, (*csr, *columns, order, order, 0, 60))


def test_the_numbering_at_work_does_not_show(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, clustered: Callable[..., Tensor]
) -> None:
    features, random = clustered(90).to(device), torch.Generator().manual_seed(0)
    scale = 0.5 + torch.rand(90, generator=random).to(device)
    found = []
    for order in (None, torch.arange(90), torch.arange(90).flip(0), torch.randperm(90, generator=random)):
        if order is not None:
            numbers = order.int().to(device)
            monkeypatch.setattr(sys.modules["mlt_ops.jaccard"], "neighborhood_order", lambda index: numbers)  # noqa: B023
        found.append(mlt_ops.jaccard_distance(features, max_distance=0.9, k1=8, scale=scale))
        SparseDistance(*vars(found[-1]).values())  # checks the structure, and symmetry bit for bit
    for other in found[1:]:
        assert torch.equal(found[0].rowptr, other.rowptr)
        assert torch.equal(found[0].col, other.col)
        torch.testing.assert_close(found[0].value, other.value, rtol=0, atol=1e-6)


def test_neighbors_are_numbered_one_after_another(device: torch.device, clustered: Callable[..., Tensor]) -> None:
    features = clustered(600, noise=0.05).to(device)
    index = mlt_ops.knn(features, 8).index
    order = sparse.neighborhood_order(index.int()).long()
    assert order.sort().values.tolist() == list(range(600))

    def steps(order: Tensor) -> float:  # from a row to its nearest one
        place = sparse.places(order.int()).long()
        assert torch.equal(place, order.argsort())
        return float((place - place[index[:, 1]]).abs().float().median())

    assert steps(order) < 0.1 * steps(torch.arange(600, device=device))


def test_mirror(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    dense = torch.rand(70, 70, generator=random)
    dense = dense.where(dense > 0.7, 0.0).tril()
    order = torch.randperm(70, generator=random)
    row, col = dense.nonzero(as_tuple=True)
    rowptr = torch.nn.functional.pad((dense != 0).sum(dim=1).cumsum(0), (1, 0))
    lower = (rowptr.to(device), col.int().to(device), dense[row, col].to(device), order.int().to(device))
    wanted = torch.empty(70, 70)
    wanted[order.unsqueeze(1), order] = dense + dense.tril(-1).T
    monkeypatch.setattr(sparse, "_ROWS_PER_CALL", 33)
    for mirror in (sparse.mirror, sparse._mirror_by_sorting):
        found = SparseDistance(*mirror(*lower), 70, 1.0)  # checks the structure
        assert torch.equal(found.to_dense().cpu(), wanted.where(wanted != 0, 1.0))
    empty = sparse.mirror(rowptr[:1].to(device), *(part[:0] for part in lower[1:]))
    assert [part.tolist() for part in empty] == [[0], [], []]


def test_the_mirror_operator_checks_its_arguments() -> None:
    csr, numbers = (torch.tensor([0, 1]), torch.zeros(1).int(), torch.ones(1)), torch.zeros(1).int()
    arguments = [*csr, *csr, numbers, numbers, 0, 1]
    bad = [
        (1, torch.zeros(2).int(), "col and value must be equally long, got 2 and 1"),
        (3, torch.tensor([0, 1, 1]), "all arguments must have 1 rows"),
        (6, torch.zeros(1), "order and place must be int32"),
        (7, torch.zeros(2).int(), "all arguments must have 1 rows"),
        (9, 2, "rows 0 to 2 are not within 0 to 1"),
    ]
    for position, value, message in bad:
        changed: list[Any] = [*arguments[:position], value, *arguments[position + 1 :]]
        with pytest.raises(RuntimeError, match=message):
            torch.ops.mlt_ops.mirror(*changed)


def test_transpose(device: torch.device) -> None:
    dense = torch.tensor([[0, 2.0, 0, 1], [0, 3, 0, 0], [4, 5, 0, 0]], device=device)
    row, col = dense.nonzero(as_tuple=True)
    rowptr = torch.tensor([0, 2, 3, 5], device=device)
    found = sparse.transpose(rowptr, col.int(), dense[row, col], 4)
    assert [part.tolist() for part in found] == [[0, 1, 4, 4, 5], [2, 0, 1, 2, 0], [4, 2, 3, 5, 1]]
    empty = sparse.transpose(rowptr[:1], col[:0].int(), dense[row, col][:0], 4)
    assert [part.tolist() for part in empty] == [[0, 0, 0, 0, 0], [], []]


@pytest.mark.usefixtures("restore_threads")
def test_transpose_in_pieces_and_threads(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = torch.rand(70, 41, generator=torch.Generator().manual_seed(0)).to(device)
    dense = dense.where(dense > 0.7, 0.0)
    row, col = dense.nonzero(as_tuple=True)
    rowptr = torch.nn.functional.pad((dense != 0).sum(dim=1).cumsum(0), (1, 0))
    wanted_col, wanted_row = dense.T.nonzero(as_tuple=True)
    for threads, rows_per_call, entries_per_call in ((1, 999, 999), (2, 8, 7), (4, 33, 50)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(sparse, "_ROWS_PER_CALL", rows_per_call)
        monkeypatch.setattr(sparse, "_ENTRIES_PER_CALL", entries_per_call)
        colptr, rows, values = sparse.transpose(rowptr, col.int(), dense[row, col], 41)
        assert torch.equal(rows.long(), wanted_row)
        assert torch.equal(values, dense.T[wanted_col, wanted_row])
        assert torch.equal(colptr, torch.nn.functional.pad((dense.T != 0).sum(dim=1).cumsum(0), (1, 0)))


@pytest.mark.parametrize("stage", ["k_reciprocal", "expand_query", "transpose", "jaccard_distance"])
def test_ctrl_c_ends_each_stage_within_a_second(
    clustered: Callable[..., Tensor],
    interrupted: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    features = clustered(3000)
    neighbors = mlt_ops.knn(features, 30)
    sets = mlt_ops.k_reciprocal(features, neighbors, k1=30)
    monkeypatch.setattr(sparse, "_ROWS_PER_CALL", 1)  # as many calls as a job of tens of millions of rows
    calls: dict[str, Callable[[], object]] = {
        "k_reciprocal": lambda: mlt_ops.k_reciprocal(features, neighbors, k1=30),
        "expand_query": lambda: mlt_ops.expand_query(sets, neighbors, k2=6),
        "transpose": lambda: sparse.transpose(sets.rowptr, sets.col, sets.value, 3000),
        "jaccard_distance": lambda: mlt_ops.jaccard_distance(features, max_distance=0.6, neighbors=neighbors),
    }
    assert interrupted(lambda: [calls[stage]() for _ in range(10_000)]) < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.full((9, 2), float("nan"))}, "features must be finite"),
        ({"features": torch.zeros(9, 2, dtype=torch.int64)}, "features must be floating point"),
        ({"max_distance": 0.0}, "max_distance must be positive and finite, got 0.0"),
        ({"max_distance": float("nan")}, "max_distance must be positive"),
        ({"k1": 0}, "jaccard_distance: k1 must be at least 1"),
        ({"k2": 0}, "k2 must be at least 1"),
        ({"neighbors": (torch.zeros(9, 2), torch.zeros(9, 2).long())}, "neighbors needs 5 columns"),
        ({"neighbors": (torch.zeros(8, 5), torch.zeros(8, 5).long())}, r"must be floating \[9, k\]"),
        ({"neighbors": (torch.zeros(9, 5, device="meta"), torch.zeros(9, 5).long())}, "on meta"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": torch.ones(9, 2), "max_distance": 0.6, "k1": 5, "k2": 2} | changes
    with pytest.raises(ValueError, match=message):
        mlt_ops.jaccard_distance(**arguments)


def test_random_inputs_equal_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        num_rows=st.integers(1, 40), dim=st.integers(1, 5), k1=st.integers(1, 12), k2=st.integers(1, 8),
        levels=st.integers(1, 4), seed=st.integers(0, 2**16),
    )  # fmt: skip
    def check(num_rows: int, dim: int, k1: int, k2: int, levels: int, seed: int) -> None:
        rows = torch.randint(
            levels, (num_rows, dim), generator=torch.Generator().manual_seed(seed)
        ).float()  # many ties
        wanted = torch.from_numpy(reference.jaccard_distance(rows.numpy(), k1, k2)).float()
        found = mlt_ops.jaccard_distance(rows, max_distance=1, k1=k1, k2=k2)
        torch.testing.assert_close(found.to_dense(), wanted, rtol=0, atol=4e-6)

    check()
