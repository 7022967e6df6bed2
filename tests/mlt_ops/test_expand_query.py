"""expand_query: means of neighbours' rows in a fixed order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import SparseRows, reference

pytestmark = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


@pytest.fixture
def sample(clustered: Callable[..., Tensor]) -> tuple[SparseRows, mlt_ops.Neighbors]:
    features = clustered(150)
    neighbors = mlt_ops.knn(features, 12)
    return mlt_ops.k_reciprocal(features, neighbors, k1=12), neighbors


def to(device: torch.device | str, rows: SparseRows) -> SparseRows:
    return SparseRows(rows.rowptr.to(device), rows.col.to(device), rows.value.to(device), rows.num_cols)


@pytest.mark.parametrize("k2", [1, 2, 6, 12])
def test_equals_the_reference(device: torch.device, sample: tuple[SparseRows, mlt_ops.Neighbors], k2: int) -> None:
    rows, neighbors = sample
    on_device = mlt_ops.Neighbors(*(tensor.to(device) for tensor in neighbors))
    mean = mlt_ops.expand_query(to(device, rows), on_device, k2=k2)
    wanted = reference.expand_query(rows.to_dense().double().numpy(), neighbors.index.numpy(), k2)
    assert torch.equal(mean.to_dense().cpu() > 0, torch.from_numpy(wanted > 0))
    torch.testing.assert_close(mean.to_dense().cpu(), torch.from_numpy(wanted).float(), rtol=1e-6, atol=1e-8)
    SparseRows(mean.rowptr, mean.col, mean.value, mean.num_cols)  # columns ascend


def test_columns_need_not_be_rows(device: torch.device) -> None:
    rows = SparseRows(torch.tensor([0, 1, 2]), torch.tensor([4, 0]), torch.tensor([1.0, 0.0]), 5)
    index = torch.tensor([[0, 1], [1, 1]], device=device)
    mean = mlt_ops.expand_query(to(device, rows), (torch.zeros(2, 2, device=device), index), k2=2)
    assert mean.to_dense().tolist() == [[0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0]]


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_a_bit(sample: tuple[SparseRows, mlt_ops.Neighbors]) -> None:
    torch.set_num_threads(1)
    one = mlt_ops.expand_query(*sample, k2=6)
    torch.set_num_threads(2)
    two = mlt_ops.expand_query(*sample, k2=6)
    assert torch.equal(one.col, two.col)
    assert torch.equal(one.value, two.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_cpus_bits(sample: tuple[SparseRows, mlt_ops.Neighbors]) -> None:
    rows, neighbors = sample
    cpu = mlt_ops.expand_query(rows, neighbors, k2=6)
    cuda = mlt_ops.expand_query(to("cuda", rows), mlt_ops.Neighbors(*(t.cuda() for t in neighbors)), k2=6)
    assert all(torch.equal(getattr(cpu, name), getattr(cuda, name).cpu()) for name in ("rowptr", "col", "value"))


def test_opcheck(device: torch.device, sample: tuple[SparseRows, mlt_ops.Neighbors]) -> None:
    rows, index = to(device, sample[0]), sample[1].index.int().to(device)
    arguments = (rows.rowptr, rows.col, rows.value, index, rows.num_cols, 6, 0, rows.num_rows)
    torch.library.opcheck(torch.ops.mlt_ops.expand_query.default, arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k2": 0}, "k2 must be at least 1, got 0"),
        ({"k2": 3}, "neighbors needs 2 columns here"),
        ({"neighbors": (torch.zeros(2, 1), torch.full((2, 1), 2))}, "must be between 0 and 1, got 2 to 2"),
        (
            {"rows": SparseRows(torch.tensor([0, 1, 1]), torch.tensor([0]), torch.tensor([-1.0]), 2)},
            "must not hold negative values, got -1.0",
        ),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    rows = SparseRows(torch.tensor([0, 1, 1]), torch.tensor([0]), torch.tensor([1.0]), 2)
    arguments = {"rows": rows, "neighbors": (torch.zeros(2, 1), torch.zeros(2, 1).long()), "k2": 1} | changes
    with pytest.raises(ValueError, match=message):
        mlt_ops.expand_query(**arguments)


def test_the_operator_checks_its_arguments() -> None:
    arguments = [torch.tensor([0, 1]), torch.zeros(1).int(), torch.ones(1), torch.zeros(1, 1).int(), 1, 1, 0, 1]
    bad = [
        (0, torch.zeros(0, dtype=torch.int64), r"rowptr must be \[N \+ 1\]"),
        (1, torch.zeros(2).int(), "col and value must be equally long, got 2 and 1"),
        (1, torch.zeros(1).long(), "col must be int32"),
        (3, torch.zeros(1).int(), "index must be 2-D, got 1-D"),
        (5, 2, "k2 must be between 1 and the 1 columns of index, got 2"),
        (6, -1, "rows -1 to 1 are not within 0 to 1"),
    ]
    for position, value, message in bad:
        changed: list[Any] = [*arguments[:position], value, *arguments[position + 1 :]]
        with pytest.raises(RuntimeError, match=message):
            torch.ops.mlt_ops.expand_query(*changed)


def test_random_inputs_equal_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        num_rows=st.integers(1, 30), num_cols=st.integers(1, 40), k2=st.integers(1, 9), share=st.floats(0, 1),
        seed=st.integers(0, 2**16),
    )  # fmt: skip
    def check(num_rows: int, num_cols: int, k2: int, share: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        stored = torch.rand(num_rows, num_cols, generator=generator) < share
        dense = torch.rand(num_rows, num_cols, generator=generator) * stored
        rowptr = torch.nn.functional.pad(stored.sum(dim=1).cumsum(0), (1, 0))
        rows = SparseRows(rowptr, stored.nonzero()[:, 1], dense[stored], num_cols)
        index = torch.randint(num_rows, (num_rows, min(k2, num_rows)), generator=generator)  # also a row several times
        found = mlt_ops.expand_query(rows, (torch.zeros(index.shape), index), k2=k2).to_dense()
        wanted = torch.from_numpy(reference.expand_query(dense.double().numpy(), index.numpy(), k2)).float()
        assert torch.equal(found > 0, wanted > 0)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)

    check()
