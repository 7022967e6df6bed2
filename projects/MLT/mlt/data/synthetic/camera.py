"""What a camera does to a picture: colours, exposure, haze, blur, resolution, noise and compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mlt.data.synthetic.scene import make_scene
from mlt.data.synthetic.style import CAMERA_STRENGTH, DomainStyle

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Camera:
    """One camera of a domain.

    Args:
        matrix: colour matrix [3, 3] with the exposure in it, applied as ``rgb @ matrix``.
        gamma: exponent of the response.
        haze: share of veiling light.
        veil: colour of the veiling light, float32 [3].
        noise: standard deviation of the sensor noise, of 1.
        blur: radius of the defocus in output pixels.
        native: height at which the person was seen, share of the output height.
        quality: JPEG quality.
        elevation: radians by which it looks down.
        headings: two main walking directions (yaw in radians).
        light: from where the light falls, -1 (left) to 1 (right).
        scene: panorama behind the people, float32 [2H, >2W, 3].
    """

    matrix: np.ndarray
    gamma: float
    haze: float
    veil: np.ndarray
    noise: float
    blur: float
    native: float
    quality: int
    elevation: float
    headings: tuple[float, float]
    light: float
    scene: np.ndarray


def sample_camera(rng: np.random.Generator, style: DomainStyle, size: tuple[int, int]) -> Camera:
    """Draw a camera of a domain.

    Args:
        rng: the camera's own generator.
        style: what the domain's cameras have in common.
        size: (height, width) of its pictures.
    """
    height, width = size
    balance = np.array(style.tint) * np.exp(rng.normal(0, 0.3 * CAMERA_STRENGTH, 3))
    matrix = (np.eye(3) + rng.normal(0, 0.12 * CAMERA_STRENGTH, (3, 3))) * balance * rng.uniform(*style.gain)
    heading = rng.uniform(-np.pi, np.pi)
    return Camera(
        matrix=matrix.astype(np.float32),
        gamma=float(np.exp(rng.normal(0, 0.3 * CAMERA_STRENGTH))),
        haze=float(rng.uniform(*style.haze)),
        veil=rng.uniform(0.5, 0.8, 3).astype(np.float32),
        noise=float(rng.uniform(*style.noise)),
        blur=float(rng.uniform(*style.blur)) * height / 64,
        native=float(rng.uniform(*style.native)),
        quality=int(rng.uniform(*style.quality)),
        elevation=float(rng.uniform(0.05, 0.4)),
        headings=(heading, heading + np.pi * rng.uniform(0.6, 1.0)),
        light=float(rng.uniform(-1, 1)),
        scene=make_scene(rng, indoor=style.indoor, height=SUPERSAMPLING * height, width=SUPERSAMPLING * width),
    )


def take_picture(camera: Camera, canvas: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """Return the JPEG file that a camera makes of a rendered canvas.

    Args:
        camera: through which to look.
        canvas: float32 [H, W, 3], RGB about 0 to 1.
        size: (height, width) of the picture.
        rng: the image's generator, for the noise.
    """
    height, width = size
    native = max(16, round(width * camera.native)), max(32, round(height * camera.native))
    seen = np.asarray(_to_image(canvas).resize(native, Image.Resampling.BOX), dtype=np.float32) / 255
    light = np.clip(seen @ camera.matrix, 0, 1) ** camera.gamma
    light = light * (1 - camera.haze) + camera.veil * camera.haze
    light += camera.noise * rng.standard_normal(light.shape, dtype=np.float32)
    image = _to_image(light)
    if native != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if camera.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(camera.blur))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=camera.quality)
    return file.getvalue()


def _to_image(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
