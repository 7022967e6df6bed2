"""Loss and pooling arithmetic in float32, whatever autocast says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of tensors so that it runs outside autocast, with half-precision inputs widened to float32.

    Exponentials of distances and sums over thousands of terms do not fit into bfloat16. float64 stays float64.

    Args:
        function: takes at least one tensor, or a list or tuple of tensors.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        wide_args = [_widen(arg) for arg in args]
        wide_kwargs = {name: _widen(arg) for name, arg in kwargs.items()}
        with torch.autocast(_device_type(*wide_args, *wide_kwargs.values()), enabled=False):
            return function(*wide_args, **wide_kwargs)

    return wrapped


def _widen(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.float() if arg.dtype in (torch.float16, torch.bfloat16) else arg
    if isinstance(arg, list | tuple) and arg and all(isinstance(item, Tensor) for item in arg):
        return type(arg)([_widen(item) for item in arg])
    return arg


def _device_type(*args: Any) -> str:
    for arg in args:
        if isinstance(arg, Tensor):
            return arg.device.type
        if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor):
            return arg[0].device.type
    return "cpu"
