"""The only shape that bodies are made of: a tapered tube with a texture wrapped around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_AMBIENT, _FACING, _LIT = 0.68, 0.32, 0.16  # shares of light that a surface gets anyway, facing us, facing the lamp


@dataclass(frozen=True)
class Tube:
    """A tube as it appears on the canvas.

    Args:
        top: (x, y) of its upper end in pixels.
        bottom: (x, y) of its lower end.
        radii: half widths in pixels at equal distances from top to bottom, at least two.
        texture: [rows, columns, 3] colours wrapped around it, see ``textures``.
        turn: angle in radians by which the texture is turned towards us.
        cap: height of the rounded ends, share of the end's half width.
    """

    top: tuple[float, float]
    bottom: tuple[float, float]
    radii: tuple[float, ...]
    texture: np.ndarray
    turn: float
    cap: float


def draw_tube(canvas: np.ndarray, tube: Tube, light: float) -> None:
    """Draw a tube onto the canvas, in place.

    Args:
        canvas: float32 [H, W, 3].
        tube: what to draw; parts outside the canvas are cut off.
        light: from where the light falls, -1 (left) to 1 (right).
    """
    (x0, y0), (x1, y1) = tube.top, tube.bottom
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    reach = max(tube.radii) * max(1.0, tube.cap)
    rows, cols = canvas.shape[:2]
    left, right = max(0, int(min(x0, x1) - reach)), min(cols, int(max(x0, x1) + reach) + 2)
    upper, lower = max(0, int(min(y0, y1) - reach)), min(rows, int(max(y0, y1) + reach) + 2)
    if left >= right or upper >= lower:
        return

    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x0)
    y = np.arange(upper, lower, dtype=np.float32)[:, None] + np.float32(0.5 - y0)
    along = (x * dx + y * dy) / length
    v = np.minimum(np.maximum(along, 0), 1)
    radius = _radius(tube.radii, v)
    s = (x * dy - y * dx) / radius
    beyond = (along - v) * length / (tube.cap * radius)
    inside = s * s + beyond * beyond < 1

    s, v = s[inside], v[inside]
    u = (np.arccos(s) - tube.turn) / (2 * np.pi) + 0.25
    texture_rows, texture_cols = tube.texture.shape[:2]
    row = np.minimum((v * texture_rows).astype(np.intp), texture_rows - 1)
    col = (u * texture_cols + texture_cols).astype(np.intp) % texture_cols  # u is above -1
    shade = _AMBIENT + _FACING * np.sqrt(1 - s * s) + _LIT * light * s
    canvas[upper:lower, left:right][inside] = tube.texture[row, col] * shade[:, None]


def _radius(radii: tuple[float, ...], v: np.ndarray) -> np.ndarray:
    """Half width at each share ``v`` of the way down, linear between the given ones."""
    radius = radii[0] + (len(radii) - 1) * (radii[1] - radii[0]) * v
    for i in range(1, len(radii) - 1):  # each knot changes the slope; cheaper than np.interp on small arrays
        bend = radii[i + 1] - 2 * radii[i] + radii[i - 1]
        radius += bend * np.maximum((len(radii) - 1) * v - i, 0)
    return radius
