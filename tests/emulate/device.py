"""A CUDA device that is pretended: its tensors keep their numbers in the CPU's memory.

Python sees tensors on cuda:0 and goes the way of a GPU. Each operation is computed on the CPU, and refused where a GPU
would refuse it: tensors of both devices together, NumPy's view of a CUDA tensor. For what a CPU would wait, is written
down. Neither CUDA's kernels, streams, memory nor mixed precision are pretended; `mlt_ops` computes by its CPU kernels.

As a plugin of pytest (`-p tests.emulate.device`) it has the tests that are marked gpu run on such a device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from mlt_ops import _library

aten = torch.ops.aten
HERE, CPU = torch.device("cuda", 0), torch.device("cpu")
ONLY_CUDA: dict[Any, Callable[..., Any]] = {
    aten.mm.dtype: lambda one, other, dtype: one.to(dtype) @ other.to(dtype),  # the CPU has no kernel of it
}
COPIES = ("copy_", "_to_copy")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
READING = ("_local_scalar_dense", "equal")  # whose result is no tensor
WAITING = (*READING, "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive")
CUDA_MODULE: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: "a pretended GPU",
    "get_device_capability": lambda *_: (9, 0),
    "is_bf16_supported": lambda *_: True,
    "is_current_stream_capturing": lambda: False,
    "get_rng_state_all": lambda: [],
    "mem_get_info": lambda *_: (1 << 33, 1 << 34),
    "memory_allocated": lambda *_: 0,
    "memory_reserved": lambda *_: 0,
    "synchronize": lambda *_: None,
    "set_sync_debug_mode": lambda *_: None,
    "_lazy_init": lambda: None,
}


class Pretended(Tensor):
    """A tensor on the pretended device.

    Attributes:
        inner: its numbers, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        """Wrap a tensor of the CPU.

        Within PyTorch it is on "meta", where the autograd engine asks for no stream and nothing is computed unseen.
        """
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        outer = Tensor._make_wrapper_subclass(cls, inner.size(), device="meta", **layout)  # type: ignore[attr-defined]
        outer.inner = inner
        return outer

    device = property(lambda self: HERE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # a file's reader says where it wants its tensors

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended device that is gone.")


class Device(TorchDispatchMode):
    """Pretend, as a context manager, that there is one CUDA device.

    Attributes:
        waits: what a CPU would have waited for: operations whose result it reads, copies other than from page-locked
            memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._pinned: dict[int, Tensor] = {}  # by address, kept: no other tensor may come to be there

    def __enter__(self) -> Device:
        with contextlib.ExitStack() as stack:
            for name, value in CUDA_MODULE.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, value))
            stream = mock.Mock(is_capturing=lambda: False)
            stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", return_value=stream))
            stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, *_: self._pin(tensor)))
            if _library._extension is not None:
                kernels = SimpleNamespace(with_cuda=True, cuda_archs="pretended")
                stack.enter_context(mock.patch.object(_library, "_extension", kernels))
            _library.capability_of.cache_clear()
            stack.callback(_library.capability_of.cache_clear)
            before = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) then copies where we see it
            stack.callback(torch._C._set_only_lift_cpu_tensors, before)
            super().__enter__()
            stack.push(super().__exit__)
            stack.enter_context(_Requests())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
        wanted = kwargs.get("device")
        stays = bool(ours) if wanted is None else wanted.type in ("cuda", "meta")
        if not ours and not stays:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        self._watch(name, args, kwargs, stays)
        if name not in (*COPIES, *INDEXING) and ours:
            _refuse_others(func, tensors)
        on_cpu = {} if wanted is None else {"device": CPU}
        result = ONLY_CUDA.get(func, func)(*_inner(args), **{**_inner(kwargs), **on_cpu})
        if name in READING or not stays:
            return result
        wrapped = _wrapped(result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if ours else wrapped

    def _watch(self, name: str, args: Any, kwargs: Any, stays: bool) -> None:
        """Write down what the CPU waits for."""
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.waits.append(name)
        if name in INDEXING:
            positions = [tensor for tensor in args[1] if tensor is not None]
            if not all(isinstance(tensor, Pretended) and tensor.dtype != torch.bool for tensor in positions):
                self.waits.append(f"{name} by a mask, or by positions on the CPU")
        if name in COPIES:
            source = args[1] if name == "copy_" else args[0]
            there = isinstance(args[0], Pretended) if name == "copy_" else stays
            fast = kwargs.get("non_blocking", args[2] if len(args) > 2 else False) and self._is_pinned(source)
            if isinstance(source, Pretended) != there and not (there and fast):
                self.waits.append(f"copy {'from' if there else 'to'} the CPU")

    def _pin(self, tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, Pretended) and tensor.untyped_storage().data_ptr() in self._pinned


class _Requests(TorchFunctionMode):
    """What must be answered before PyTorch asks the driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        args, kwargs = _numbered(args), _numbered(kwargs or {})
        if func is Tensor.to and isinstance(args[1] if len(args) > 1 else None, Pretended):
            args = (args[0], HERE, args[1].dtype, *args[2:])
        if args and isinstance(args[0], Pretended):
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
            if func is Tensor.new_tensor:
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype, "device": HERE, **kwargs})
            if func is Tensor.to and args[1:] == (HERE,) and not kwargs.get("copy"):
                return args[0]
        if func is Tensor.cuda:
            return args[0].to(HERE, **kwargs)
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    """A CUDA device without its number, which PyTorch would look up, gets it."""
    if isinstance(value, dict):
        return {key: _numbered(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_numbered, value)) if type(value) is tuple else value
    return HERE if isinstance(value, (torch.device, str)) and str(value) == "cuda" else value


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inner(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_inner, value))
    return value.inner if isinstance(value, Pretended) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_wrapped, value))
    return Pretended(value) if isinstance(value, Tensor) else value


def _refuse_others(func: Any, tensors: list[Tensor]) -> None:
    """A number on the CPU may go with tensors of a GPU, nothing else may."""
    if any(tensor.dim() and not isinstance(tensor, Pretended) for tensor in tensors):
        found = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {found}.")


def pytest_configure() -> None:
    """Tests decide while they are collected whether there is a device."""
    for name in ("is_available", "get_device_name"):
        setattr(torch.cuda, name, CUDA_MODULE[name])


@pytest.fixture(autouse=True)
def _pretend(request: pytest.FixtureRequest) -> Iterator[None]:
    with Device() if request.node.get_closest_marker("gpu") else contextlib.nullcontext():
        yield
