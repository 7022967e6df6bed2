"""Equality of what checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, at every depth."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), f"{where}: {sorted(set(a) ^ set(b)) or 'another order'}"
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where
