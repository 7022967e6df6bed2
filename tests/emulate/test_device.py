"""The pretended device: results of the CPU, refusals and waits of a GPU."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mlt_ops
from tests.emulate.device import Device, Pretended


@pytest.fixture
def device() -> Iterator[Device]:
    """A device that is there during the test."""
    with Device() as pretended:
        yield pretended


def test_there_is_a_gpu_only_while_it_is_pretended() -> None:
    before = torch.cuda.is_available(), Tensor.pin_memory
    with Device():
        assert torch.cuda.is_available()
        rows = torch.zeros(2, device="cuda")
        assert isinstance(rows, Pretended)
        assert (rows.device.type, rows.is_cuda, rows.is_cpu) == ("cuda", True, False)
    assert (torch.cuda.is_available(), Tensor.pin_memory) == before
    with pytest.raises(RuntimeError, match="a pretended device that is gone"):
        rows + 1


@pytest.mark.parametrize(
    "use",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: F.linear(there, here),
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: there.index_select(0, here[0].long()),
        lambda here, there: mlt_ops.segment_mean(there, here[0].long(), 3),
    ],
)
def test_tensors_of_both_devices_are_refused(device: Device, use: Callable[[Tensor, Tensor], Tensor]) -> None:
    here, there = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
    for one, other in ((here, there), (there, here)):
        with pytest.raises((RuntimeError, ValueError), match=r"device|on (cpu|cuda:0), got"):
            use(one, other)
    assert torch.equal((here * torch.tensor(2.0) + 1).cpu(), torch.full((3, 3), 3.0))  # a number may be anywhere


def test_numpy_sees_no_memory_of_a_gpu(device: Device) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        torch.ones(3, device="cuda").numpy()
    assert torch.ones(3, device="cuda").cpu().numpy().sum() == 3


WAITS = {
    "_local_scalar_dense": [int, bool, float, Tensor.item],
    "nonzero": [Tensor.nonzero],
    "equal": [lambda x: torch.equal(x, x)],
    "_unique2": [Tensor.unique],
    "repeat_interleave": [lambda x: x.repeat_interleave(x.abs())],
    "copy to the CPU": [Tensor.cpu, Tensor.tolist, lambda x: x.to("cpu", non_blocking=True)],
    "copy from the CPU": [lambda x: torch.tensor([1], device=x.device), lambda x: torch.ones(2).to(x)],
    "by a mask": [lambda x: x[x > 0], lambda x: x.index_put_((x > 0,), x)],
    "on the CPU": [lambda x: x[torch.tensor([0])]],
}


@pytest.mark.parametrize(("name", "use"), [(name, use) for name, uses in WAITS.items() for use in uses])
def test_waits_are_noticed(device: Device, name: str, use: Callable[[Tensor], object]) -> None:
    rows = torch.ones(1, dtype=torch.int64, device="cuda")
    device.waits.clear()
    use(rows)
    assert len(device.waits) == 1
    assert name in device.waits[0]


def test_what_needs_no_wait_is_none(device: Device) -> None:
    rows = torch.ones(4, 3, device="cuda")
    sent = torch.arange(4).pin_memory().view(2, 2)[0].to("cuda", non_blocking=True)
    device.waits.clear()
    rows[sent] = rows[sent] * 2
    rows[0] = 5.0
    rows.masked_fill_(rows > 4, 0.0).sort(dim=1)
    torch.where(rows > 0, rows, 1.0).topk(2)
    sent.repeat_interleave(sent, output_size=1)
    torch.arange(3).pin_memory().to("cuda", non_blocking=True)
    assert device.waits == []
    torch.arange(3).pin_memory().to("cuda")
    assert device.waits == ["copy from the CPU"]


def test_the_operators_have_kernels_for_it() -> None:
    before = mlt_ops.has_cuda(), mlt_ops.describe_build()
    with Device():
        assert mlt_ops.has_cuda() == mlt_ops.has_extension()
        rows = torch.nn.functional.normalize(torch.randn(30, 4, device="cuda"))
        if mlt_ops.has_extension():
            assert mlt_ops.jaccard_distance(rows, max_distance=0.6, k1=5, k2=2).value.is_cuda
    assert (mlt_ops.has_cuda(), mlt_ops.describe_build()) == before


def net() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("fused", [True, False])
def test_training_gives_the_cpus_bits(device: Device, fused: bool) -> None:
    images, targets = torch.randn(8, 3, 7, 5), torch.arange(8) % 4
    here = net()
    there = copy.deepcopy(here).to("cuda", memory_format=torch.preserve_format)
    for model, where in ((here, "cpu"), (there, "cuda")):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(where)), targets.to(where)).backward()
            optimizer.step()
    for (name, one), other in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert other.is_cuda
        assert torch.equal(one, other.cpu()), name


def test_views_share_their_memory_and_files_keep_numbers(device: Device) -> None:
    rows = torch.zeros(3, 4, device="cuda")
    rows.view(2, 6)[1].fill_(1)
    rows.t()[0, 0] = 7
    assert rows.tolist() == [[7, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    file = io.BytesIO()
    torch.save({"rows": rows}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["rows"], rows.cpu())


def test_what_only_a_gpu_can(device: Device) -> None:
    rows = torch.randn(3, 5).half()
    found = torch.mm(rows.to("cuda"), rows.T.to("cuda"), out_dtype=torch.float32)
    assert torch.equal(found.cpu(), rows.float() @ rows.T.float())
