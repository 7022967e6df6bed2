"""Loads the compiled extension and says what to do when it is missing."""

from __future__ import annotations

import functools
import importlib
import re
from types import ModuleType

import torch  # also loads the libraries that the extension is linked with

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


def has_cuda(device: torch.device | None = None) -> bool:
    """Whether the compiled operators have CUDA kernels. They may be there on a machine without a GPU.

    Args:
        device: a GPU, which the kernels must run on; None = any.
    """
    if _extension is None or not _extension.with_cuda:
        return False
    return device is None or runs_on(cuda_archs(), capability_of(device))


def cuda_archs() -> str:
    """TORCH_CUDA_ARCH_LIST of the build; "" without CUDA kernels."""
    return str(getattr(_extension, "cuda_archs", ""))


@functools.lru_cache
def capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU, for instance (7, 5).

    Args:
        device: the GPU.
    """
    return torch.cuda.get_device_capability(device)


@functools.lru_cache
def runs_on(archs: str, capability: tuple[int, int]) -> bool:
    """Whether kernels run on a GPU: compiled ones within a major version, PTX on everything newer.

    Args:
        archs: as in TORCH_CUDA_ARCH_LIST, "7.5;8.6+PTX"; names ("Turing") and suffixes ("9.0a") count as fitting,
            because only CUDA itself can tell.
        capability: of the GPU.
    """
    numbers = re.findall(r"(\d+)\.(\d+)(\+PTX)?(?=[\s;]|$)", archs)
    built = [((int(major), int(minor)), bool(ptx)) for major, minor, ptx in numbers]
    if len(built) < len(re.findall(r"[^\s;]+", archs)):
        return True
    return any(arch <= capability and (ptx or arch[0] == capability[0]) for arch, ptx in built)


def require_extension(op: str, device: torch.device | None = None) -> None:
    """Refuse to go on without the compiled operators.

    Args:
        op: name of the function that needs them, for the message.
        device: where its arguments are; on a GPU, CUDA kernels that are there must run on it.

    Raises:
        RuntimeError: the extension is missing, or not for this GPU; the message holds the reason and the remedy.
    """
    if _extension is None:
        raise RuntimeError(f"{op} needs the extension mlt_ops._C: {_reason}. {_REMEDY}")
    if device is not None and device.type == "cuda" and has_cuda() and not has_cuda(device):
        own = "{}.{}".format(*capability_of(device))
        raise RuntimeError(
            f"{op}: mlt_ops was built for GPUs of compute capability {cuda_archs()}, and {device} has {own}. Build it "
            f"again on this machine, or with TORCH_CUDA_ARCH_LIST={own}; or pass the tensors' .cpu()."
        )


def describe_build() -> str:
    """One line about the extension, for logs and bug reports."""
    if _extension is None:
        return f"mlt_ops without its extension: {_reason}. {_REMEDY}"
    return f"mlt_ops with {f'CPU and CUDA ({cuda_archs()})' if has_cuda() else 'CPU'} kernels"
