"""How a walking person looks from a camera: skeleton, projection, and the tubes in the order of their depth."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin

import numpy as np

from mlt.data.synthetic.identity import Build, Identity
from mlt.data.synthetic.textures import Textures, make_textures, plain
from mlt.data.synthetic.tube import Tube, draw_tube

# In metres, of the person: x to the left, y forward, z up.
Point = tuple[float, float, float]

_HEIGHT = 1.75
_SHADOW = 0.55


@dataclass(frozen=True)
class Pose:
    """A moment of walking: ``phase`` of the step in radians, ``stride`` and ``swing`` of leg and arm in radians."""

    phase: float
    stride: float
    swing: float


@dataclass(frozen=True)
class View:
    """Where a person stands on the canvas and from where it is seen.

    Args:
        yaw: radians; 0 faces the camera, pi/2 walks to the left of the picture, pi walks away.
        elevation: radians by which the camera looks down.
        height: of the person in pixels.
        feet: (x, y) of the point between the feet in pixels.
        light: from where the light falls, -1 (left) to 1 (right).
    """

    yaw: float
    elevation: float
    height: float
    feet: tuple[float, float]
    light: float = 0.0


@dataclass(frozen=True)
class Part:
    """One tube of the body: ends in metres, half widths sideways, depth as a share of them, bias of the depth order."""

    top: Point
    bottom: Point
    radii: tuple[float, ...]
    texture: np.ndarray
    depth: float = 1.0
    cap: float = 0.9
    bias: float = 0.0


class Person:
    """A person that can be drawn many times."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.textures: Textures = make_textures(identity)
        self._hair = plain(identity.hair)
        self._shoes = plain(identity.shoes)
        self._bag = plain(identity.bag_color)
        self._hat = plain(identity.hat_color)
        self._skin = plain(identity.skin)
        self._scarf = None if identity.scarf is None else plain(identity.scarf)

    def draw(self, canvas: np.ndarray, pose: Pose, view: View) -> None:
        """Draw the person and its shadow, in place.

        Args:
            canvas: float32 [H, W, 3].
            pose: moment of walking.
            view: where it stands and from where it is seen.
        """
        _draw_shadow(canvas, view)
        parts = self.parts(pose)
        camera = _Projection(view)
        for part in sorted(parts, key=camera.nearness):
            draw_tube(canvas, camera.project(part), view.light)

    def parts(self, pose: Pose) -> list[Part]:
        """Return the tubes of the body in a pose.

        Args:
            pose: moment of walking.
        """
        joints = _Skeleton(self.identity.build, pose)
        return [*self._trunk(joints), *self._head(joints), *self._limbs(joints), *self._things(joints)]

    def _trunk(self, joints: _Skeleton) -> list[Part]:
        build = self.identity.build
        shoulder, chest, waist = 0.175 * build.shoulders, 0.172 * build.girth, 0.145 * build.girth
        hip = 0.165 * build.hips * build.girth
        top, hips = joints.neck, joints.pelvis
        parts = [
            Part(top, hips, (shoulder, chest, waist, hip), self.textures.torso, depth=0.62, cap=0.28, bias=0.02),
            Part((0, 0, top[2] + 0.09), (0, 0, top[2] - 0.02), (0.055, 0.06), self._skin),
        ]
        if self.identity.lower_kind in ("skirt", "dress", "coat"):
            hem = (0.0, 0.0, hips[2] - (0.24 if self.identity.lower_kind == "coat" else 0.36))
            flare = 0.22 if self.identity.lower_kind == "coat" else 0.25
            parts.append(Part(hips, hem, (hip, flare * build.hips), self.textures.skirt, depth=0.8, cap=0.15, bias=0.1))
        if self._scarf is not None:
            parts.append(
                Part((0, 0, top[2] + 0.05), (0, 0, top[2] - 0.02), (0.085, 0.12), self._scarf, cap=0.5, bias=0.1)
            )
        return parts

    def _head(self, joints: _Skeleton) -> list[Part]:
        identity, z, size = self.identity, joints.neck[2], self.identity.build.head
        chin, crown = (0.0, 0.02, z + 0.10), (0.0, 0.02, z + 0.10 + 0.2 * size)
        radii = (0.085 * size, 0.105 * size, 0.1 * size, 0.07 * size)
        parts = [Part(crown, chin, radii, self.textures.head, depth=1.15, cap=0.45, bias=0.06)]
        if identity.hair_style == "long":
            parts.append(Part((0, -0.06, crown[2] - 0.04), (0, -0.09, z - 0.1), (0.10, 0.12), self._hair, bias=0.01))
        if identity.hair_style == "bun":
            parts.append(Part((0, -0.13, crown[2]), (0, -0.13, crown[2] - 0.05), (0.055, 0.055), self._hair))
        if identity.hat == "cap":
            brim = crown[2] - 0.06
            parts.append(Part((0, 0.08, brim), (0, 0.19, brim - 0.02), (0.08, 0.07), self._hat, cap=0.3, bias=0.1))
        return parts

    def _limbs(self, joints: _Skeleton) -> list[Part]:
        girth, maps = self.identity.build.girth, self.textures
        loose = 0.012 if self.identity.sleeve_length > 0.8 else 0.0
        parts = []
        for shoulder, elbow, hand in joints.arms:
            radii = (0.062 * girth + loose, 0.05 * girth + loose, 0.036 * girth + loose)
            parts.append(Part(shoulder, elbow, radii[:2], maps.upper_arm))
            parts.append(Part(elbow, hand, radii[1:], maps.forearm))
        for hip, knee, ankle, toe in joints.legs:
            parts.append(Part(hip, knee, (0.092 * girth, 0.066 * girth), maps.thigh))
            parts.append(Part(knee, ankle, (0.066 * girth, 0.048 * girth), maps.shin))
            parts.append(Part(ankle, toe, (0.05, 0.045), self._shoes, cap=0.7))
        return parts

    def _things(self, joints: _Skeleton) -> list[Part]:
        identity, side = self.identity, self.identity.bag_side
        if identity.bag == "backpack":
            z = joints.neck[2]
            return [Part((0, -0.19, z - 0.03), (0, -0.21, z - 0.4), (0.13, 0.155, 0.15), self._bag, 0.6, 0.4)]
        if identity.bag == "shoulder":
            x, z = 0.2 * side * identity.build.hips, joints.pelvis[2]
            return [Part((x, -0.02, z + 0.08), (x, -0.02, z - 0.16), (0.06, 0.07), self._bag, 2.2, 0.2, 0.12)]
        if identity.bag == "hand":
            x, y, z = joints.arms[0 if side > 0 else 1][2]
            return [Part((x, y, z - 0.08), (x, y, z - 0.3), (0.05, 0.07), self._bag, 2.4, 0.2, 0.05)]
        return []


class _Skeleton:
    """Joints of a walking person; the lower foot stands on z = 0."""

    def __init__(self, build: Build, pose: Pose) -> None:
        thigh, shin = 0.43 * build.legs, 0.42 * build.legs
        hip_z = (thigh + shin) * (1 - 0.35 * pose.stride**2 * abs(sin(pose.phase))) + 0.07
        self.pelvis: Point = (0.0, 0.0, hip_z)
        self.neck: Point = (0.0, 0.03, hip_z + 0.52 - 0.1 * (build.legs - 1))
        self.legs, self.arms = [], []
        for side in (1, -1):  # left, right
            phase = pose.phase + (0 if side > 0 else pi)
            swing, bend = pose.stride * sin(phase), 0.1 + 1.1 * pose.stride * max(0.0, cos(phase))
            hip = (0.085 * side * build.hips, 0.0, hip_z - 0.02)
            knee = _hang(hip, thigh, swing)
            ankle = _hang(knee, shin, swing - bend)
            toe = (ankle[0] + 0.02 * side, ankle[1] + 0.15, ankle[2] - 0.045)
            self.legs.append((hip, knee, ankle, toe))
            arm = -pose.swing * sin(phase)
            shoulder = (0.195 * side * build.shoulders, self.neck[1], self.neck[2] - 0.05)
            elbow = _hang(shoulder, 0.29, arm, 0.12 * side)
            hand = _hang(elbow, 0.27, arm + 0.25, 0.04 * side)
            self.arms.append((shoulder, elbow, hand))


def _hang(joint: Point, length: float, forward: float, outward: float = 0.0) -> Point:
    x, y, z = joint
    return x + length * sin(outward), y + length * sin(forward), z - length * cos(forward) * cos(outward)


class _Projection:
    """Weak perspective: a camera that looks down sees the head larger than the feet."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.cos_yaw, self.sin_yaw = cos(view.yaw), sin(view.yaw)
        self.cos_up, self.sin_up = cos(view.elevation), sin(view.elevation)
        self.pixels = view.height / (_HEIGHT * self.cos_up)

    def nearness(self, part: Part) -> float:
        (x0, y0, _), (x1, y1, _) = part.top, part.bottom  # height left out: a body is upright, and parts are long
        return part.bias + ((x0 + x1) * self.sin_yaw + (y0 + y1) * self.cos_yaw) / 2

    def project(self, part: Part) -> Tube:
        zoom = self.pixels * (1 + 0.4 * self.sin_up * ((part.top[2] + part.bottom[2]) / (2 * _HEIGHT) - 0.5))
        across, toward = self.cos_yaw, part.depth * self.sin_yaw
        width = hypot(across, toward) * zoom
        radii = tuple(max(0.5, width * radius) for radius in part.radii)
        return Tube(
            self._point(part.top), self._point(part.bottom), radii, part.texture, atan2(toward, across), part.cap
        )

    def _point(self, point: Point) -> tuple[float, float]:
        x, y, z = point
        forward = x * self.sin_yaw + y * self.cos_yaw
        up = z * self.cos_up - forward * self.sin_up
        zoom = self.pixels * (1 + 0.4 * self.sin_up * (z / _HEIGHT - 0.5))
        return (
            self.view.feet[0] + (x * self.cos_yaw - y * self.sin_yaw) * zoom,
            self.view.feet[1] - up * self.pixels,
        )


def _draw_shadow(canvas: np.ndarray, view: View) -> None:
    """Darken an ellipse on the ground, thrown away from the light."""
    x0, y0 = view.feet[0] - 0.08 * view.light * view.height, view.feet[1]
    width, height = 0.2 * view.height, 0.045 * view.height
    top, bottom = max(0, int(y0 - height)), min(canvas.shape[0], int(y0 + height) + 1)
    x = (np.arange(canvas.shape[1], dtype=np.float32)[None, :] - x0) / width
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] - y0) / height
    canvas[top:bottom][x * x + y * y < 1] *= _SHADOW
