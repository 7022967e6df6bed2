"""Two doors to each component: plain arguments, or a cfg that `from_config` turns into plain arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode


def configurable(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate `__init__` so that `Component(cfg, ...)` calls `cls.from_config(cfg, ...)` for its arguments.

    `from_config` is looked up on the class of the object, so a subclass may replace it. Called without a
    cfg the constructor is untouched, which is how tests and other projects use a component.

    Args:
        init: the constructor, with plain arguments.

    Raises:
        TypeError: the class has no `from_config`.
    """

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if not (args and isinstance(args[0], CfgNode)):
            init(self, *args, **kwargs)
            return
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise TypeError(f"{type(self).__name__} was given a cfg but has no classmethod from_config(cfg, ...)")
        init(self, **from_config(*args, **kwargs))

    return wrapped
