"""SparseRows and SparseDistance: conversions, and each way in which a CSR can be malformed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mlt_ops import SparseDistance, SparseRows
from mlt_ops.structures import _memory_of


def entries(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Rows {0: 0, 2: 0.5}, {}, {0: 0.5}: the distance 0.5 between 0 and 2, and one zero on the diagonal."""
    return {
        "rowptr": torch.tensor([0, 2, 2, 3], device=device),
        "col": torch.tensor([0, 2, 0], device=device),
        "value": torch.tensor([0.0, 0.5, 0.5], device=device),
        "num_cols": 3,
    }


def test_dense(device: torch.device) -> None:
    rows = SparseRows(**entries(device))
    assert (rows.num_rows, rows.nnz, rows.device.type) == (3, 3, device.type)
    assert rows.to_dense().tolist() == [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]]
    distance = SparseDistance(**entries(device), max_distance=0.6)
    assert distance.to_dense().tolist() == [[0, 1, 0.5], [1, 1, 1], [0.5, 1, 1]]
    assert distance.to_dense(fill=7)[1].tolist() == [7, 7, 7]


def test_scipy_keeps_explicit_zeros() -> None:
    matrix = SparseDistance(**entries(), max_distance=0.6).to_scipy()
    assert matrix.shape == (3, 3)
    assert matrix.nnz == 3
    assert matrix.toarray().tolist() == [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]]


def test_nothing_stored() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert SparseRows(torch.zeros(1, dtype=torch.int64), empty, torch.zeros(0), 5).to_dense().shape == (0, 5)
    distance = SparseDistance(torch.zeros(3, dtype=torch.int64), empty, torch.zeros(0), 2, 0.5)
    assert distance.to_dense().tolist() == [[1, 1], [1, 1]]


def test_a_matrix_that_cannot_fit_is_refused_with_its_size() -> None:
    pointers = torch.zeros(10_000_001, dtype=torch.int64)
    rows = SparseRows(pointers, torch.zeros(0, dtype=torch.int64), torch.zeros(0), 10_000_000)
    with pytest.raises(RuntimeError, match="takes 400000000000000 bytes, cpu has"):
        rows.to_dense()


def test_what_pytorch_keeps_for_reuse_on_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    assert _memory_of(torch.device("cuda:0")) == 410


@pytest.mark.parametrize(
    ("field", "bad", "message"),
    [
        ("rowptr", torch.tensor([0, 2, 2, 3], dtype=torch.int32), "rowptr must be 1-D torch.int64"),
        ("rowptr", torch.zeros(0, dtype=torch.int64), "rowptr must ascend from 0 to 3"),
        ("rowptr", torch.tensor([0, 2, 1, 3]), "rowptr must ascend"),
        ("rowptr", torch.tensor([1, 2, 2, 3]), "rowptr must ascend"),
        ("rowptr", torch.tensor([0, 2, 2, 4]), "rowptr must ascend from 0 to 3"),
        ("col", torch.tensor([[0, 2, 0]]), "col must be 1-D torch.int64 on cpu, got 2-D"),
        ("col", torch.tensor([0, 3, 0]), "col must be between 0 and 2, got 0 to 3"),
        ("col", torch.tensor([-1, 2, 0]), "got -1 to 2"),
        ("col", torch.tensor([2, 0, 0]), "col must be strictly ascending"),
        ("col", torch.tensor([2, 2, 0]), "col must be strictly ascending"),
        ("col", torch.tensor([0, 2]), "equally long, got 2 and 3"),
        ("value", torch.tensor([0.0, 0.5, 0.5]).double(), "value must be 1-D torch.float32"),
        ("value", torch.tensor([0.0, 0.5, float("nan")]), "value must be finite"),
        ("num_cols", 2**31, "num_cols must be between"),
    ],
)
def test_malformed_csr(field: str, bad: Tensor | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseRows(**(entries() | {field: bad}))
    with pytest.raises(ValueError, match=message):
        SparseDistance(**(entries() | {field: bad}), max_distance=0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_cols": 4}, "must be square, got 3 rows and 4 columns"),
        ({"max_distance": 0.4}, "between 0 and max_distance=0.4, got 0.0 to 0.5"),
        ({"value": torch.tensor([-0.1, 0.5, 0.5])}, "between 0 and max_distance"),
        ({"value": torch.tensor([0.0, 0.5, 0.25])}, "must be symmetric"),
        ({"col": torch.tensor([0, 2, 1])}, "must be symmetric"),
    ],
)
def test_what_is_no_distance(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseDistance(**({**entries(), "max_distance": 0.6} | changes))
