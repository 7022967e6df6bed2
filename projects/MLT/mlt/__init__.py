"""MLT and MMT: unsupervised domain-adaptive re-identification. Importing this loads no component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlt.api import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """`mlt.load_model`, imported when it is asked for: it needs all components."""
    if name == "load_model":
        from mlt.api import load_model

        return load_model
    raise AttributeError(f"module 'mlt' has no attribute {name!r}")
