"""What a person's surface looks like: one colour map around each part of the body.

A texture is float32 [ROWS, COLS, 3], RGB 0 to 1. Rows run down the part; columns run around it, from the middle of the
back (0) over the person's left side (1/4), front (1/2) and right side (3/4) to the back again. What is painted on one
side is therefore seen from that side only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlt.data.synthetic.identity import Fabric, Identity, Print
from mlt.data.synthetic.style import Color

ROWS, COLS = 48, 96
FRONT, BACK = 0.5, 0.0

_V = ((np.arange(ROWS) + 0.5) / ROWS)[:, None] * np.ones((1, COLS))
_U = ((np.arange(COLS) + 0.5) / COLS)[None, :] * np.ones((ROWS, 1))
_CHEST_GIRTH, _TORSO_HEIGHT = 0.95, 0.52  # metres, to keep prints round


@dataclass(frozen=True)
class Textures:
    """The colour maps of one person; each is [rows, COLS, 3], limbs are cut at elbow and knee."""

    head: np.ndarray
    torso: np.ndarray
    upper_arm: np.ndarray
    forearm: np.ndarray
    thigh: np.ndarray
    shin: np.ndarray
    skirt: np.ndarray


def plain(color: Color) -> np.ndarray:
    """Return a texture of one colour.

    Args:
        color: RGB, 0 to 1.
    """
    return np.full((ROWS, COLS, 3), color, dtype=np.float32)


def make_textures(identity: Identity) -> Textures:
    """Paint all parts of a person.

    Args:
        identity: whom to paint.
    """
    arm, leg = _arm(identity), _leg(identity)
    return Textures(
        head=_head(identity),
        torso=_torso(identity),
        upper_arm=arm[: ROWS // 2],
        forearm=arm[ROWS // 2 :],
        thigh=leg[: ROWS // 2],
        shin=leg[ROWS // 2 :],
        skirt=weave(identity.upper if identity.lower_kind in ("dress", "coat") else identity.lower),
    )


def weave(fabric: Fabric) -> np.ndarray:
    """Return the texture of a fabric all around a part.

    Args:
        fabric: colours and pattern.
    """
    texture = plain(fabric.base)
    texture[_pattern(fabric)] = fabric.accent
    return texture


def _pattern(fabric: Fabric) -> np.ndarray:
    """Where the accent colour goes, bool [ROWS, COLS]; whole periods around the body, so that no seam shows."""
    rows = max(2, round(5 * fabric.scale))
    around = max(3, round(9 * fabric.scale))
    v, u = _V * rows + fabric.phase, _U * around + fabric.phase
    hoops, pinstripes = v % 1 < 0.4, u % 1 < 0.4
    cut = 0.3 + 0.4 * fabric.phase
    wave = np.sin(2 * np.pi * (2 * _U + v / 2)) + np.sin(2 * np.pi * (3 * _U - v / 3 + fabric.phase))
    patterns = {
        "plain": np.zeros_like(hoops),
        "hoops": hoops,
        "pinstripes": pinstripes,
        "check": hoops ^ pinstripes,
        "dots": (v % 1 - 0.5) ** 2 + (u % 1 - 0.5) ** 2 < 0.09,
        "block": cut > _V,
        "sash": np.abs(_V - 0.15 - 1.5 * _around(FRONT)) < 0.12 * fabric.scale,
        "panels": np.abs(_around(FRONT) - 0.25) < 0.05 + 0.08 * fabric.phase,
        "blotches": wave > 0.3,
        "hem": cut * 0.4 > np.abs(_V - 0.9 * cut),
    }
    return patterns[fabric.pattern]


def _around(center: float) -> np.ndarray:
    """Distance of each column from ``center``, 0 to 1/2 turn."""
    return np.abs((_U - center + 0.5) % 1 - 0.5)


def _stamp(texture: np.ndarray, figure: Print, center: float) -> None:
    x = ((_U - center + 0.5) % 1 - 0.5) * _CHEST_GIRTH / figure.size
    y = (_V - figure.height) * _TORSO_HEIGHT / figure.size
    radius, square = np.hypot(x, y), np.maximum(np.abs(x), np.abs(y))
    shapes = {
        "disc": radius < 1,
        "square": square < 0.9,
        "bar": (np.abs(x) < 1.3) & (np.abs(y) < 0.4),
        "cross": (square < 1.1) & (np.minimum(np.abs(x), np.abs(y)) < 0.35),
        "ring": (radius < 1.15) & (radius > 0.6),
        "chevron": (np.abs(y - np.abs(x) + 0.5) < 0.45) & (np.abs(x) < 1.2),
    }
    texture[shapes[figure.shape]] = figure.color


def _torso(identity: Identity) -> np.ndarray:
    texture = weave(identity.upper)
    if identity.front is not None:
        _stamp(texture, identity.front, FRONT)
    if identity.opening is not None:
        texture[_around(FRONT) < 0.03 + 0.06 * _V] = identity.opening
    if identity.back is not None:
        _stamp(texture, identity.back, BACK)
    if identity.bag == "backpack":
        texture[(np.abs(_around(FRONT) - 0.12) < 0.025) & (_V < 0.75)] = identity.bag_color
    if identity.bag == "shoulder":
        strap = 0.5 + 2.0 * identity.bag_side * ((_U + 0.25) % 0.5 - 0.25) * np.where(np.abs(_U - 0.5) < 0.25, -1, 1)
        texture[np.abs(_V - strap) < 0.07] = identity.bag_color
    return texture


def _arm(identity: Identity) -> np.ndarray:
    texture = plain(identity.skin)
    sleeve = identity.sleeve_length > _V
    texture[sleeve] = weave(identity.sleeves)[sleeve]
    return texture


def _leg(identity: Identity) -> np.ndarray:
    bare = {"trousers": 0.97, "coat": 0.97, "shorts": 0.42, "skirt": 0.0, "dress": 0.0}[identity.lower_kind]
    texture = plain(identity.skin)
    covered = bare > _V
    texture[covered] = weave(identity.lower)[covered]
    if identity.side_stripe is not None:
        texture[covered & (np.abs(_around(FRONT) - 0.25) < 0.06)] = identity.side_stripe
    if identity.boots > 0:
        texture[1 - identity.boots / 2 < _V] = identity.shoes
    return texture


def _head(identity: Identity) -> np.ndarray:
    texture = plain(identity.skin)
    face = _around(FRONT)
    if identity.hair_style != "bald":
        texture[(_V < 0.28) | ((face > 0.2) & (_V < 0.75))] = identity.hair
    texture[(np.abs(face - 0.07) < 0.025) & (np.abs(_V - 0.5) < 0.05)] = (0.1, 0.08, 0.08)
    if identity.hat != "none":
        brim = 0.36 if identity.hat == "cap" else 0.45
        texture[brim > _V] = identity.hat_color
    return texture
