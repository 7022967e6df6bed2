"""cfg -> the losses that are summed."""

from __future__ import annotations

from yacs.config import CfgNode

from mlt.modeling.losses.base import ReidLoss
from mlt.registry import LOSSES


def build_losses(cfg: CfgNode) -> list[ReidLoss]:
    """The losses that MODEL.LOSSES.NAME names.

    Args:
        cfg: the whole tree.

    Raises:
        KeyError: unknown name.
        ValueError: the same name twice.
    """
    names = cfg.MODEL.LOSSES.NAME
    if len(set(names)) < len(names):
        raise ValueError(f"MODEL.LOSSES.NAME must be different names out of {', '.join(LOSSES)}; got {names}")
    return [LOSSES.get(name)(cfg) for name in names]
