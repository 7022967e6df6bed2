"""count_closer: places in a stable sort, ties and odd values included, with and without the extension."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mlt_ops
from mlt_ops import Columns, count_closer, reference
from mlt_ops.count_closer import _count_closer_torch

module = sys.modules["mlt_ops.count_closer"]  # the package's attribute of this name is the function
needs_extension = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())
ODD = torch.tensor([0.0, -0.0, 1e-42, -1e-42, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, -torch.nan])


@pytest.fixture(params=["extension", "fallback"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation in turn."""
    if request.param == "fallback":
        monkeypatch.setattr(module, "has_extension", lambda: False)
        monkeypatch.setattr(module, "has_cuda", lambda _: False)
    elif not mlt_ops.has_extension():
        pytest.skip(mlt_ops.describe_build())
    return str(request.param)


def choose(num_rows: int, num_cols: int, share: float, seed: int) -> Columns:
    """Some columns of each row, of some rows none."""
    generator = torch.Generator().manual_seed(seed)
    shares = share * torch.rand(num_rows, 1, generator=generator) * (torch.rand(num_rows, 1, generator=generator) > 0.2)
    chosen = torch.rand(num_rows, num_cols, generator=generator) < shares
    return Columns(torch.nn.functional.pad(chosen.sum(dim=1).cumsum(0), (1, 0)), chosen.nonzero()[:, 1])


def oracle(distance: Tensor, references: Columns, excluded: Columns) -> list[int]:
    arrays = [tuple(part.numpy() for part in columns) for columns in (references, excluded)]
    return reference.count_closer(distance.numpy(), *arrays).tolist()


def on(columns: Columns, device: torch.device) -> Columns:
    return Columns(*(part.to(device) for part in columns))


@pytest.mark.usefixtures("implementation")
def test_a_row_by_hand(device: torch.device) -> None:
    distance = torch.tensor([[0.3, 0.1, 0.3, 0.2, 0.3]], device=device)
    every = on(Columns(torch.tensor([0, 5]), torch.arange(5)), device)
    assert count_closer(distance, every).tolist() == [2, 0, 3, 1, 4]
    without = torch.tensor([0, 2], device=device), torch.tensor([0, 1], device=device)
    count = count_closer(distance, every, excluded=without)
    assert count.tolist() == [1, 0, 1, 0, 2]  # excluded columns have a place of their own, but take none
    assert count.dtype == torch.int64
    assert count.device == distance.device


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_odd_values_are_ordered_as_a_stable_sort_does(device: torch.device, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    distance = ODD.to(dtype)[torch.randint(len(ODD), (40, 60), generator=generator)]
    references, excluded = choose(40, 60, 1.0, 2), choose(40, 60, 0.2, 3)
    found = count_closer(distance.to(device), on(references, device), excluded=on(excluded, device))
    assert found.tolist() == oracle(distance.float(), references, excluded)


@pytest.mark.parametrize("with_extension", [pytest.param(True, marks=needs_extension), False])
@given(
    rows=st.integers(0, 6),
    cols=st.integers(1, 40),
    levels=st.integers(1, 30),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_equals_the_reference(with_extension: bool, rows: int, cols: int, levels: int, share: float, seed: int) -> None:
    distance = torch.from_numpy(np.random.default_rng(seed).integers(-levels, levels + 1, (rows, cols))).float() / 7
    references, excluded = choose(rows, cols, share, seed), choose(rows, cols, 0.3, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        if not with_extension:
            patch.setattr(module, "has_extension", lambda: False)
        found = count_closer(distance, references, excluded=excluded)
    assert found.tolist() == oracle(distance, references, excluded)


@needs_extension
@pytest.mark.parametrize("num_cols", [4095, 4096, 4097, 9000])  # around the blocks of the CPU kernel
def test_long_rows(device: torch.device, num_cols: int) -> None:
    generator = torch.Generator().manual_seed(num_cols)
    distance = torch.randint(500, (3, num_cols), generator=generator).float()
    references, excluded = choose(3, num_cols, 0.1, 4), choose(3, num_cols, 0.1, 5)
    found = count_closer(distance.to(device), on(references, device), excluded=on(excluded, device))
    assert torch.equal(found.cpu(), _count_closer_torch(distance, *references, *excluded))


@pytest.mark.usefixtures("implementation")
def test_the_pieces_of_a_call_do_not_show(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    distance = torch.rand(50, 30, generator=torch.Generator().manual_seed(6)).to(device)
    references, excluded = on(choose(50, 30, 0.5, 7), device), on(choose(50, 30, 0.3, 8), device)
    whole = count_closer(distance, references, excluded=excluded)
    for most in (1, 100, 1000):
        monkeypatch.setattr(module, "ELEMENTS_PER_CALL", most)
        monkeypatch.setattr(module, "_FALLBACK_ELEMENTS", most)
        assert torch.equal(count_closer(distance, references, excluded=excluded), whole)
    monkeypatch.setattr(module, "ELEMENTS_PER_CALL", 1 << 27)
    monkeypatch.setattr(module, "_COMPARISONS_PER_CALL", 500)
    assert torch.equal(count_closer(distance, references, excluded=excluded), whole)


@needs_extension
@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_a_count() -> None:
    distance = torch.randint(99, (70, 5000), generator=torch.Generator().manual_seed(9)).float()
    references, excluded = choose(70, 5000, 0.02, 10), choose(70, 5000, 0.02, 11)
    torch.set_num_threads(1)
    one = count_closer(distance, references, excluded=excluded)
    torch.set_num_threads(2)
    assert torch.equal(count_closer(distance, references, excluded=excluded), one)


@pytest.mark.usefixtures("implementation")
def test_strided_double_and_differentiable_distances(device: torch.device) -> None:
    distance = torch.rand(9, 20, generator=torch.Generator().manual_seed(12)).to(device)
    references = on(choose(9, 20, 0.5, 13), device)
    expected = count_closer(distance, references)
    assert torch.equal(count_closer(distance.T.contiguous().T, references), expected)
    assert torch.equal(count_closer(distance.double(), references), expected)
    found = count_closer(distance.requires_grad_(), Columns(references.rowptr, references.col.int()))
    assert torch.equal(found, expected)
    assert not found.requires_grad


@pytest.mark.usefixtures("implementation")
def test_double_precision_is_rounded(device: torch.device) -> None:
    distance = torch.tensor([[1 + 1e-12, 1.0]], dtype=torch.float64, device=device)
    both = torch.tensor([0, 2], device=device), torch.tensor([0, 1], device=device)
    assert count_closer(distance, both).tolist() == [0, 1]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_count(device: torch.device, shape: tuple[int, int]) -> None:
    none = on(Columns(torch.zeros(shape[0] + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)), device)
    count = count_closer(torch.zeros(shape, device=device), none)
    assert (count.shape, count.dtype) == ((0,), torch.int64)


@needs_extension
def test_memory_does_not_grow_with_the_matrix(peak_bytes: Callable[[Callable[[], object]], int]) -> None:
    distance, references = torch.rand(200, 5000), choose(200, 5000, 0.005, 14)
    assert 0 < peak_bytes(lambda: count_closer(distance, references)) < 100 * len(references.col) < distance.nbytes / 10


@needs_extension
def test_ctrl_c_is_heard(interrupted: Callable[[Callable[[], object]], float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPARISONS_PER_CALL", 1 << 28)
    distance, references = torch.rand(400, 20_000), choose(400, 20_000, 0.5, 15)  # some seconds
    assert interrupted(lambda: count_closer(distance, references)) < 1


@needs_extension
def test_opcheck(device: torch.device) -> None:
    references, excluded = on(choose(6, 9, 0.5, 16), device), on(choose(6, 9, 0.5, 17), device)
    distance = torch.rand(6, 9, device=device)
    arguments = distance, references.rowptr, references.col.int(), excluded.rowptr, excluded.col.int()
    torch.library.opcheck(torch.ops.mlt_ops.count_closer.default, arguments)


@needs_extension
@pytest.mark.parametrize(
    ("position", "bad", "message"),
    [
        (0, torch.zeros(3), "distance must be 2-D"),
        (0, torch.zeros(2, 3, dtype=torch.float64), "distance must be float32"),
        (0, torch.zeros(3, 2).T, "distance must be contiguous"),
        (1, torch.zeros(3, dtype=torch.int32), "rowptr must be int64"),
        (1, torch.zeros(4, dtype=torch.int64), r"must be \[3\], one more than the rows of distance, got 4"),
        (2, torch.zeros(1, dtype=torch.int64), "col must be int32"),
        (3, torch.zeros(2, dtype=torch.int64), r"must be \[3\], one more than the rows of distance, got 2"),
        (4, torch.zeros(1), "excluded_col must be int32"),
    ],
)
def test_the_operator_checks_its_arguments(device: torch.device, position: int, bad: Tensor, message: str) -> None:
    pointers, cols = torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    arguments = [torch.zeros(2, 3), pointers, cols, pointers, cols]
    arguments[position] = bad
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mlt_ops.count_closer(*(tensor.to(device) for tensor in arguments))


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (torch.zeros(3), r"distance must be floating \[Q, G\], got torch.float32 \[3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), r"got torch.int64 \[2, 3\]. Convert whole numbers with .float\(\)"),
    ],
)
def test_malformed_distances(distance: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_closer(distance, choose(2, 3, 0.5, 18))


@pytest.mark.parametrize("name", ["reference", "excluded"])
@pytest.mark.parametrize(
    ("rowptr", "col", "message"),
    [
        ([0, 1], [0], r"rowptr must be \[3\], one more than the rows of distance, got \[2\]"),
        ([0, 1, 3], [0, 1], "rowptr must ascend from 0 to 2"),
        ([0, 1, 2], [0, 3], "col must be between 0 and 2, got 0 to 3"),
        ([0, 0, 2], [1, 1], "col must be strictly ascending within each row"),
        ([0, 1, 2], [0.0, 1.0], "col must be 1-D torch.int64"),
    ],
)
def test_malformed_columns(name: str, rowptr: list[int], col: list[float], message: str) -> None:
    fine = torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    columns = {"reference": fine, "excluded": fine} | {name: (torch.tensor(rowptr), torch.tensor(col))}
    with pytest.raises(ValueError, match=f"count_closer: {name}: {message}"):
        count_closer(torch.zeros(2, 3), **columns)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_cpus_counts() -> None:
    distance = torch.randint(-300, 300, (333, 5000), generator=torch.Generator().manual_seed(19)).float()
    references, excluded = choose(333, 5000, 0.05, 20), choose(333, 5000, 0.05, 21)
    cuda = torch.device("cuda")
    found = count_closer(distance.cuda(), on(references, cuda), excluded=on(excluded, cuda))
    assert torch.equal(found.cpu(), count_closer(distance, references, excluded=excluded))
