"""segment_mean: values, the same bits everywhere, the extension against its fallback."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import reference
from mlt_ops.segment_mean import _segment_mean_torch

needs_extension = pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())


def sample(num_rows: int, dim: int, num_segments: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    features = torch.randn(num_rows, dim, generator=generator)
    return features, torch.randint(-1, num_segments, (num_rows,), generator=generator)


@pytest.mark.parametrize(("num_rows", "dim", "num_segments"), [(50, 3, 7), (400, 257, 5), (6, 300, 40), (0, 4, 3)])
def test_equals_the_reference(device: torch.device, num_rows: int, dim: int, num_segments: int) -> None:
    features, labels = sample(num_rows, dim, num_segments)
    mean, count = mlt_ops.segment_mean(features.to(device), labels.to(device), num_segments)
    expected_mean, expected_count = reference.segment_mean(features.numpy(), labels.numpy(), num_segments)
    torch.testing.assert_close(mean.cpu(), torch.from_numpy(expected_mean).float(), rtol=1e-6, atol=1e-7)
    assert count.cpu().tolist() == expected_count.tolist()
    assert mean.dtype == torch.float32
    assert mean.device == count.device == device or device.type == "cuda"


def test_rows_without_a_segment_do_not_count(device: torch.device) -> None:
    features = torch.tensor([[1.0, 2.0], [100.0, 100.0], [3.0, 4.0]], device=device)
    mean, count = mlt_ops.segment_mean(features, torch.tensor([1, -1, 1], device=device), 3)
    assert mean.tolist() == [[0, 0], [2, 3], [0, 0]]
    assert count.tolist() == [0, 2, 0]


def test_no_segments(device: torch.device) -> None:
    mean, count = mlt_ops.segment_mean(torch.ones(2, 3, device=device), torch.full((2,), -1, device=device), 0)
    assert mean.shape == (0, 3)
    assert count.shape == (0,)


def test_sums_are_accurate(device: torch.device) -> None:
    features = torch.full((200_000, 1), 0.1, device=device)  # float32 sums one by one would be off by 1e-3
    mean, _ = mlt_ops.segment_mean(features, torch.zeros(200_000, dtype=torch.int64, device=device), 1)
    assert torch.equal(mean, features[:1])


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    features, labels = sample(2000, 300, 11)
    torch.set_num_threads(1)
    one, _ = mlt_ops.segment_mean(features, labels, 11)
    torch.set_num_threads(2)
    two, _ = mlt_ops.segment_mean(features, labels, 11)
    assert torch.equal(one, two)


@needs_extension
def test_the_fallback_gives_the_same_bits() -> None:
    features, labels = sample(1000, 300, 13)
    sorted_labels, order = labels.sort(stable=True)
    rowptr = torch.searchsorted(sorted_labels, torch.arange(14))
    expected = torch.ops.mlt_ops.segment_mean(features, order, rowptr)
    assert torch.equal(_segment_mean_torch(features, order, rowptr), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_cpus_bits() -> None:
    features, labels = sample(3000, 700, 37)
    cpu, _ = mlt_ops.segment_mean(features, labels, 37)
    cuda, _ = mlt_ops.segment_mean(features.cuda(), labels.cuda(), 37)
    assert torch.equal(cuda.cpu(), cpu)


def test_strided_and_half_inputs(device: torch.device) -> None:
    features, labels = sample(60, 20, 4)
    strided = features.to(device).T.contiguous().T
    expected, _ = mlt_ops.segment_mean(features.to(device), labels.to(device), 4)
    assert torch.equal(mlt_ops.segment_mean(strided, labels.to(device), 4)[0], expected)
    half = features.to(device).half()
    expected, _ = mlt_ops.segment_mean(half.float(), labels.to(device), 4)
    assert torch.equal(mlt_ops.segment_mean(half, labels.to(device), 4)[0], expected)


@needs_extension
def test_opcheck(device: torch.device) -> None:
    features, labels = sample(30, 5, 4)
    sorted_labels, order = labels.sort(stable=True)
    rowptr = torch.searchsorted(sorted_labels, torch.arange(5))
    arguments = tuple(tensor.to(device) for tensor in (features, order, rowptr))
    torch.library.opcheck(torch.ops.mlt_ops.segment_mean.default, arguments)


@needs_extension
@pytest.mark.parametrize(
    ("position", "bad", "message"),
    [
        (0, torch.zeros(3), "features must be 2-D"),
        (0, torch.zeros(3, 2, dtype=torch.float64), "features must be float32"),
        (1, torch.zeros(3, 1, dtype=torch.int64), "order must be 1-D"),
        (1, torch.zeros(3), "order must be int64"),
        (2, torch.zeros(0, dtype=torch.int64), "rowptr must be 1-D"),
        (2, torch.zeros(2), "rowptr must be int64"),
    ],
)
def test_the_operator_checks_its_arguments(device: torch.device, position: int, bad: Tensor, message: str) -> None:
    arguments = [torch.zeros(3, 2), torch.arange(3), torch.tensor([0, 3])]
    arguments[position] = bad
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mlt_ops.segment_mean(*(tensor.to(device) for tensor in arguments))


@pytest.mark.parametrize(
    ("labels", "num_segments", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), 1, r"labels must be int64 \[3\]"),
        (torch.zeros(3), 1, "got torch.float32"),
        (torch.tensor([0, 1, 2]), 2, "between -1 and 1, got 0 to 2"),
        (torch.tensor([0, -2, 1]), 2, "got -2 to 1"),
        (torch.tensor([-1, -1, -1]), -1, "num_segments must not be negative"),
    ],
)
def test_errors(labels: Tensor, num_segments: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.segment_mean(torch.zeros(3, 2), labels, num_segments)
