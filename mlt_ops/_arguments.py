"""What an argument must be before its contents matter: a tensor, a pair of them, a number."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

import torch
from torch import Tensor


def check_is_tensor(tensor: Any, name: str) -> None:
    """Refuse what is no dense tensor.

    Args:
        tensor: the argument.
        name: the operator's and the argument's, for the message.

    Raises:
        TypeError: not a tensor.
        ValueError: a sparse one.
    """
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"{name} must be a torch.Tensor, got {kind}; torch.as_tensor(...) makes one of an array.")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {tensor.layout}. Convert it with .to_dense().")


def as_pair(pair: Sequence[Tensor], names: tuple[str, str], name: str) -> tuple[Tensor, Tensor]:
    """Two dense tensors.

    Args:
        pair: a tuple, also a named one, or a list.
        names: of the tensors, for the message.
        name: the operator's and the argument's, for the message.

    Raises:
        TypeError: something else.
        ValueError: one of them is sparse.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        got = f"{len(pair)} elements" if isinstance(pair, (tuple, list)) else type(pair).__name__
        raise TypeError(f"{name} must be a pair of tensors, {' and '.join(names)}, got {got}.")
    for tensor, part in zip(pair, names):
        check_is_tensor(tensor, f"{name}.{part}")
    return pair[0], pair[1]


def as_integer(number: SupportsIndex, op: str, name: str, bits: int = 63) -> int:
    """A whole number as a Python int.

    Args:
        number: an int, also NumPy's or a tensor of one element.
        op: the operator, for the message.
        name: the argument, for the message.
        bits: that it may have, beside its sign.

    Raises:
        ValueError: it is something else, or has more bits.
    """
    try:
        integer = operator.index(number)
    except TypeError:
        raise ValueError(f"{op}: {name} must be a whole number, got {number!r}.") from None
    if abs(integer) >= 1 << bits:
        raise ValueError(f"{op}: {name} must be below 2^{bits}, got {integer}.")
    return integer


def as_count(number: SupportsIndex, op: str, name: str) -> int:
    """A whole number of at least 1, see `as_integer`.

    Args:
        number: an int, also NumPy's or a tensor of one element.
        op: the operator, for the message.
        name: the argument, for the message.

    Raises:
        ValueError: it is something else, less, or beyond 64 bits.
    """
    count = as_integer(number, op, name)
    if count < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {count}.")
    return count


def as_number(number: SupportsFloat, op: str, name: str) -> float:
    """A number as a Python float.

    Args:
        number: a float or int, also NumPy's or a tensor of one element.
        op: the operator, for the message.
        name: the argument, for the message.

    Raises:
        ValueError: it is something else, such as a string, or an int that no float holds.
    """
    try:
        if hasattr(number, "__float__"):
            return float(number)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise ValueError(f"{op}: {name} must be a number, got {number!r}.")
