"""Loads the compiled extension and says what to do when it is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch  # noqa: F401  loads the libraries that the extension is linked with

_REMEDY = (
    "Build it with a C++ compiler (g++ >= 11): `pip install --no-build-isolation .` in the project's folder, "
    "or `python setup.py build_ext --inplace` for a checkout that is not installed."
)


def _load() -> tuple[ModuleType | None, str]:
    """Import `mlt_ops._C`, which registers the operators; without it, the reason why."""
    try:
        return importlib.import_module("mlt_ops._C"), ""
    except ModuleNotFoundError:
        return None, "it has not been built"
    except ImportError as error:  # built, but not for this PyTorch or CUDA
        return None, f"it does not load here ({error})"


_extension, _reason = _load()


def has_extension() -> bool:
    """Whether the compiled operators are available."""
    return _extension is not None


def has_cuda() -> bool:
    """Whether the compiled operators have CUDA kernels. They may be there on a machine without a GPU."""
    return _extension is not None and bool(_extension.with_cuda)


def require_extension(op: str) -> None:
    """Refuse to go on without the compiled operators.

    Args:
        op: name of the function that needs them, for the message.

    Raises:
        RuntimeError: the extension is missing; the message holds the reason and the remedy.
    """
    if _extension is None:
        raise RuntimeError(f"{op} needs the extension mlt_ops._C: {_reason}. {_REMEDY}")


def describe_build() -> str:
    """One line about the extension, for logs and bug reports."""
    if _extension is None:
        return f"mlt_ops without its extension: {_reason}. {_REMEDY}"
    return f"mlt_ops with {'CPU and CUDA' if has_cuda() else 'CPU'} kernels"
