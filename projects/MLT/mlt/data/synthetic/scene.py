"""What stands behind the people of a camera: a panorama from which each image takes its background."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mlt.data.synthetic.style import Color

_PANORAMA = 6  # widths of a picture


def make_scene(rng: np.random.Generator, *, indoor: bool, height: int, width: int) -> np.ndarray:
    """Draw a panorama.

    Args:
        rng: the camera's generator.
        indoor: a station hall instead of a campus.
        height: of a picture in pixels.
        width: of a picture in pixels; the panorama is several times wider.

    Returns:
        float32 [height, wider than width, 3], RGB 0 to 1.
    """
    image = Image.new("RGB", (_PANORAMA * width, height))
    paint = _paint_hall if indoor else _paint_campus
    paint(ImageDraw.Draw(image), rng, image.width, height)
    image = image.filter(ImageFilter.GaussianBlur(height / 90))
    return np.asarray(image, dtype=np.float32) / 255


def _rgb(rng: np.random.Generator, color: Color, spread: float = 0.06) -> tuple[int, int, int]:
    red, green, blue = (255 * np.clip(np.array(color) + rng.normal(0, spread, 3), 0, 1)).astype(int)
    return int(red), int(green), int(blue)


def _paint_campus(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    horizon = int(height * rng.uniform(0.3, 0.5))
    path = int(height * rng.uniform(0.6, 0.75))
    draw.rectangle((0, 0, width, horizon), _rgb(rng, (0.68, 0.82, 0.95)))
    draw.rectangle((0, horizon, width, path), _rgb(rng, (0.42, 0.60, 0.30)))
    draw.rectangle((0, path, width, height), _rgb(rng, (0.74, 0.70, 0.64)))
    x = 0
    while x < width:  # houses with windows
        house = int(height * rng.uniform(0.3, 0.8))
        roof = int(horizon * rng.uniform(0.0, 0.6))
        draw.rectangle((x, roof, x + house, horizon + height // 20), _rgb(rng, (0.72, 0.58, 0.48), 0.1))
        pane, glass = max(4, height // 14), _rgb(rng, (0.36, 0.44, 0.54))
        for left in range(x + pane // 2, x + house - pane, 2 * pane):
            for top in range(roof + pane // 2, horizon - pane, 2 * pane):
                draw.rectangle((left, top, left + pane, top + pane), glass)
        x += house + int(height * rng.uniform(0.0, 0.5))
    for _ in range(int(rng.integers(3, 8))):  # trees
        x, crown = int(rng.uniform(0, width)), int(height * rng.uniform(0.1, 0.22))
        draw.rectangle((x - 2, horizon - crown, x + 2, horizon + crown), _rgb(rng, (0.35, 0.25, 0.18)))
        draw.ellipse((x - crown, horizon - 3 * crown, x + crown, horizon - crown // 2), _rgb(rng, (0.24, 0.46, 0.20)))
    for x in range(0, width, height // 3):  # paving
        draw.line((x, height, x + height // 4, path), _rgb(rng, (0.62, 0.58, 0.53), 0.02), 1)


def _paint_hall(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    floor = int(height * rng.uniform(0.55, 0.72))
    wall = np.clip(np.array((0.50, 0.54, 0.56)) + rng.normal(0, 0.08, 3), 0, 1)
    draw.rectangle((0, 0, width, floor), _rgb(rng, tuple(wall), 0.0))
    draw.rectangle((0, floor, width, height), _rgb(rng, (0.40, 0.40, 0.42)))
    tile = int(height * rng.uniform(0.05, 0.12))
    joint = _rgb(rng, tuple(wall * 0.85), 0.0)
    for x in range(0, width, tile):
        draw.line((x, 0, x, floor), joint, 1)
    for y in range(0, floor, tile):
        draw.line((0, y, width, y), joint, 1)
    for _ in range(int(rng.integers(3, 7))):  # posters
        x, y = int(rng.uniform(0, width)), int(height * rng.uniform(0.08, 0.3))
        right, bottom = x + int(height * rng.uniform(0.2, 0.5)), y + int(height * rng.uniform(0.15, 0.3))
        draw.rectangle((x, y, right, bottom), _rgb(rng, (0.55, 0.5, 0.5), 0.14), _rgb(rng, (0.2, 0.2, 0.2)))
    for _ in range(int(rng.integers(2, 5))):  # pillars
        x, thick = int(rng.uniform(0, width)), int(height * rng.uniform(0.06, 0.14))
        draw.rectangle((x, 0, x + thick, floor + thick), _rgb(rng, (0.36, 0.38, 0.40)))
    edge = floor + int((height - floor) * rng.uniform(0.2, 0.5))
    draw.rectangle((0, edge, width, edge + max(2, height // 50)), _rgb(rng, (0.78, 0.68, 0.25)))
    if rng.random() < 0.6:  # lamps
        for x in range(0, width, height // 2):
            draw.rectangle((x, 0, x + height // 4, height // 40), (235, 240, 245))
