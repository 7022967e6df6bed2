"""One image: who walks where, what is in front and behind, and how well the box was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlt.data.synthetic.camera import SUPERSAMPLING, Camera, take_picture
from mlt.data.synthetic.person import Person, Pose, View
from mlt.data.synthetic.style import BYSTANDER_RATE, CROP_SHIFT, CROP_ZOOM, OCCLUDER_RATE, YAW_JITTER


@dataclass(frozen=True)
class Stage:
    """Where images are taken: the camera, its domain's passers-by, its share of hard shadows, the size."""

    camera: Camera
    passers_by: Sequence[Person]
    sun: float
    size: tuple[int, int]


def shoot(stage: Stage, person: Person | None, rng: np.random.Generator, *, miscropped: bool = False) -> bytes:
    """Return one image as a JPEG file.

    Args:
        stage: where it is taken.
        person: whom the box is about; None shows the background only.
        rng: the image's own generator.
        miscropped: cut the box so badly that the person is hardly seen.
    """
    height, width = (SUPERSAMPLING * side for side in stage.size)
    canvas = _background(stage.camera.scene, width, rng)
    if rng.random() < BYSTANDER_RATE:
        _draw_passer_by(canvas, stage, rng, behind=True)
    if person is not None:
        zoom = rng.uniform(1.7, 2.4) if miscropped else 1 + rng.uniform(-CROP_ZOOM, CROP_ZOOM)
        shift = rng.uniform(-0.5, 0.5) if miscropped else rng.uniform(-CROP_SHIFT, CROP_SHIFT)
        feet = ((0.5 + shift) * width, (0.95 + rng.uniform(-0.5, 0.5) * CROP_ZOOM) * height * max(1.0, zoom - 0.3))
        person.draw(canvas, _pose(rng), _view(stage.camera, rng, 0.87 * height * zoom, feet))
    if rng.random() < OCCLUDER_RATE:
        _draw_occluder(canvas, stage, rng)
    if rng.random() < stage.sun:
        _draw_shadow_edge(canvas, rng)
    canvas *= np.float32(np.exp(rng.normal(0, 0.07)))
    return take_picture(stage.camera, canvas, stage.size, rng)


def _background(scene: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    left = int(rng.integers(scene.shape[1] - width + 1))
    return scene[:, left : left + width].copy()


def _pose(rng: np.random.Generator) -> Pose:
    return Pose(rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5), rng.uniform(0.1, 0.5))


def _view(camera: Camera, rng: np.random.Generator, height: float, feet: tuple[float, float]) -> View:
    yaw = camera.headings[rng.integers(2)] + np.radians(rng.normal(0, YAW_JITTER))
    return View(yaw, camera.elevation, height, feet, camera.light)


def _draw_passer_by(canvas: np.ndarray, stage: Stage, rng: np.random.Generator, *, behind: bool) -> None:
    height, width = canvas.shape[:2]
    size = rng.uniform(0.6, 0.8) if behind else rng.uniform(0.9, 1.1)
    x = 0.5 + rng.choice([-1, 1]) * rng.uniform(0.35, 0.6)
    feet = (x * width, (0.85 if behind else 1.05) * height)
    passer_by = stage.passers_by[int(rng.integers(len(stage.passers_by)))]
    passer_by.draw(canvas, _pose(rng), _view(stage.camera, rng, size * height, feet))


def _draw_occluder(canvas: np.ndarray, stage: Stage, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    kind = rng.integers(3)
    if kind == 0:
        _draw_passer_by(canvas, stage, rng, behind=False)
    elif kind == 1:  # a pole
        left, thick = int(width * rng.uniform(0.1, 0.8)), max(2, int(width * rng.uniform(0.08, 0.16)))
        canvas[:, left : left + thick] = rng.uniform(0.2, 0.7)
    else:  # a box on the ground
        left, top = int(width * rng.uniform(-0.3, 0.5)), int(height * rng.uniform(0.68, 0.85))
        canvas[top:, max(0, left) : left + int(0.7 * width)] = rng.uniform(0.2, 0.7, 3)


def _draw_shadow_edge(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Darken everything on one side of a slanted line, as under a roof in the sun."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    canvas[x * np.cos(angle) + y * np.sin(angle) > rng.uniform(-0.2, 0.3)] *= np.float32(rng.uniform(0.6, 0.8))
