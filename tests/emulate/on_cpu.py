"""Calls CUDA kernels of `mlt_ops` on CPU tensors, and compares each result with the CPU kernel's.

As a plugin of pytest (`-p tests.emulate.on_cpu`, EMULATE_LIBRARY names the library) it has the operators do so for a
whole test run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, get_kernel

import mlt_ops  # noqa: F401  # registers the operators

OPERATORS = (
    "segment_mean",
    "merge_nearest",
    "pair_distance",
    "mutual_neighbors",
    "k_reciprocal",
    "expand_query",
    "jaccard",
    "dbscan",
    "count_closer",
)


def load(library: Path) -> Callable[..., Any]:
    """What calls an operator, given by name, on both kernels, and returns the emulated one's result.

    Args:
        library: what `build_mlt_ops` made.

    Raises:
        AssertionError: (when called) the results differ in a bit.
    """
    torch.ops.load_library(library)
    kernels = {name: _both(name) for name in OPERATORS}
    keys = torch.DispatchKeySet(torch.DispatchKey.CPU)  # type: ignore[attr-defined]
    return lambda name, *arguments: kernels[name](keys, *arguments)


def override(library: Path) -> Library:
    """Have all calls of the operators on CPU tensors go to both kernels, as long as the result is kept.

    Args:
        library: what `build_mlt_ops` made.
    """
    torch.ops.load_library(library)
    overrides = Library("mlt_ops", "IMPL")
    for name in OPERATORS:
        overrides.impl(name, _both(name), "CPU", with_keyset=True)
    return overrides


def _both(name: str) -> Callable[..., Any]:
    cpu, cuda = (get_kernel(f"mlt_ops::{name}", key) for key in ("CPU", "PrivateUse1"))

    def merge(keys: Any, *arguments: Any) -> None:
        """The operator that changes its arguments, and whose order, and choice among equals, are each kernel's own."""
        *tile, distance, index = arguments
        wanted, order = distance.sort(descending=True)  # a heap, as the CPU kernel leaves it
        cpu.call_boxed(keys, *tile, wanted, index.gather(1, order))
        cuda.call_boxed(keys, *tile, distance, index)
        if not torch.equal(_bits(distance.sort().values), _bits(wanted.sort().values)):
            raise AssertionError(f"{name}: the emulated CUDA kernel keeps {distance}, the CPU kernel {wanted}.")

    def call(keys: Any, *arguments: Any) -> Any:
        found, wanted = cuda.call_boxed(keys, *arguments), cpu.call_boxed(keys, *arguments)
        for one, other in zip(_as_tuple(found), _as_tuple(wanted), strict=True):
            if not torch.equal(_bits(one), _bits(other)):
                raise AssertionError(f"{name}: the emulated CUDA kernel gives {one}, the CPU kernel {other}.")
        return found

    return merge if name == "merge_nearest" else call


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor


if "EMULATE_LIBRARY" in os.environ:
    _overrides = override(Path(os.environ["EMULATE_LIBRARY"]))
