"""Name -> component. One registry per kind; each carries the call contract of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The message for a name that is not there: what was asked for, the nearest names, and all if they are few.

    Args:
        kind: what was looked up, as the reader knows it ("head", "config key").
        name: the name that is not known.
        known: every name that is.
    """
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = f" Known: {', '.join(sorted(known)) or 'none'}." if len(known) <= 20 else ""
    return f"No {kind} {name!r}.{hint}{listed}"


class Registry:
    """Components of one kind by name.

    Args:
        kind: singular noun used in messages ("head").
        contract: how a registered object is called and what it returns.

    Example:
        >>> COLORS = Registry("color", "color() -> str")
        >>> @COLORS.register()
        ... def red() -> str:
        ...     return "#f00"
        >>> COLORS.get("red")()
        '#f00'
    """

    def __init__(self, kind: str, contract: str) -> None:
        self.kind = kind
        self.__doc__ = contract
        self._objects: dict[str, Callable[..., Any]] = {}

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Decorator that files an object under `name`, by default its own `__name__`.

        Args:
            name: the key; the object's own name when None.

        Raises:
            KeyError: another object holds the name. Registering the same object again is harmless.
        """

        def add(obj: T) -> T:
            key = name or obj.__name__
            held = self._objects.setdefault(key, obj)
            if held is not obj and (held.__module__, held.__qualname__) != (obj.__module__, obj.__qualname__):
                raise KeyError(f"{self.kind} {key!r} is already registered by {held.__module__}.{held.__qualname__}")
            self._objects[key] = obj
            return obj

        return add

    def get(self, name: str) -> Callable[..., Any]:
        """The object registered under `name`.

        Args:
            name: a registered name.

        Raises:
            KeyError: unknown name; the message lists the nearest and all known names.
        """
        if not self._objects:
            raise KeyError(f"No {self.kind} {name!r}: none is registered yet; `import mlt.components` registers all.")
        if name not in self._objects:
            raise KeyError(unknown_name(self.kind, name, list(self._objects)))
        return self._objects[name]

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._objects))

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"


DATASETS = Registry(
    "dataset",
    "dataset(root: str, *, direct: bool = False) -> ReidSet; the set below root, or root itself if direct",
)
BACKBONES = Registry(
    "backbone", "backbone(cfg) -> Module: images [B,3,H,W] -> feature map [B,C,h,w]; attribute out_channels"
)
HEADS = Registry("head", "head(cfg, in_channels) -> Module: feature map [B,C,h,w] -> HeadOutput")
LOSSES = Registry("loss", "loss(cfg) -> Module: (features [B,D] or logits [B,K], targets [B]) -> scalar")
MEMORIES = Registry("memory", "memory(cfg, num_features) -> Memory: a Module of buffers with losses() and update()")
CLUSTERINGS = Registry("clustering", "clustering(cfg) -> Clustering: features [N,D] -> PseudoLabels; may keep a state")
META_ARCHS = Registry(
    "meta-architecture", "meta_arch(cfg) -> Module: batch dict -> dict of losses (train) or features (eval)"
)
HOOKS = Registry("hook", "hook(cfg, ...) -> HookBase; called at the six moments of training")
