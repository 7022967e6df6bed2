"""How the two domains differ and how hard they are: every number that was tuned is in this file."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
Color = tuple[float, float, float]  # RGB, 0 to 1

# How far two cameras of one domain lie apart in white balance, colour mixing and gamma: 0 makes them equal in these.
# Set so that a small network trained on the other domain is bad, and one trained on this domain is good.
CAMERA_STRENGTH = 0.28
# Share of images with a person or thing in front, and with somebody else in the background.
OCCLUDER_RATE = 0.10
BYSTANDER_RATE = 0.15
# Standard deviation of the walking direction around each camera's main directions, degrees.
YAW_JITTER = 18.0
# Largest shift (share of the width) and zoom (share of the height) of a crop.
CROP_SHIFT = 0.06
CROP_ZOOM = 0.07


@dataclass(frozen=True)
class DomainStyle:
    """What all cameras of one domain have in common; ranges are drawn from uniformly, once per camera.

    Args:
        winter: long sleeves, jackets, coats, scarves and dark colours instead of summer clothes.
        indoor: tiled walls and a platform instead of lawn, houses and sky.
        tint: factor of each colour channel.
        gain: exposure of the cameras.
        haze: share of veiling light.
        noise: standard deviation of the sensor noise, of 1.
        blur: radius of the defocus, in pixels of a 64-pixel-high image.
        native: height at which the camera saw the person, share of the output height.
        quality: JPEG quality.
        sun: share of images with a hard shadow edge over the person.
    """

    winter: bool
    indoor: bool
    tint: Color
    gain: Range
    haze: Range
    noise: Range
    blur: Range
    native: Range
    quality: Range
    sun: float


STYLES = {
    "campus": DomainStyle(
        winter=False,
        indoor=False,
        tint=(1.04, 1.0, 0.94),
        gain=(1.0, 1.15),
        haze=(0.0, 0.06),
        noise=(0.005, 0.015),
        blur=(0.0, 0.4),
        native=(0.9, 1.1),
        quality=(85, 95),
        sun=0.25,
    ),
    "station": DomainStyle(
        winter=True,
        indoor=True,
        tint=(0.66, 0.97, 1.06),
        gain=(0.48, 0.62),
        haze=(0.12, 0.20),
        noise=(0.02, 0.038),
        blur=(0.3, 0.8),
        native=(0.7, 0.95),
        quality=(60, 80),
        sun=0.05,
    ),
}
