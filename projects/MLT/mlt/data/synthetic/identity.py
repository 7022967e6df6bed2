"""Who a person is: build, skin, hair and clothes, drawn at random for a season."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlt.data.synthetic.style import Color

LowerKind = Literal["trousers", "shorts", "skirt", "dress", "coat"]
BagKind = Literal["none", "backpack", "shoulder", "hand"]
HatKind = Literal["none", "cap", "beanie"]
HairStyle = Literal["bald", "short", "long", "bun"]

PATTERNS = ("plain", "hoops", "pinstripes", "check", "dots", "block", "sash", "panels", "blotches", "hem")
PRINTS = ("disc", "square", "bar", "cross", "ring", "chevron")

_SKINS: tuple[Color, ...] = ((0.94, 0.78, 0.67), (0.85, 0.65, 0.51), (0.66, 0.46, 0.34), (0.42, 0.28, 0.21))
_HAIRS: tuple[Color, ...] = ((0.10, 0.08, 0.07), (0.27, 0.17, 0.10), (0.48, 0.33, 0.18), (0.78, 0.65, 0.40))
_SUMMER: tuple[Color, ...] = (
    (0.92, 0.92, 0.90),
    (0.20, 0.22, 0.26),
    (0.80, 0.25, 0.22),
    (0.25, 0.42, 0.72),
    (0.90, 0.78, 0.35),
    (0.36, 0.62, 0.42),
    (0.62, 0.72, 0.86),
    (0.86, 0.58, 0.62),
)
_WINTER: tuple[Color, ...] = (
    (0.13, 0.13, 0.15),
    (0.32, 0.33, 0.36),
    (0.16, 0.21, 0.36),
    (0.46, 0.38, 0.28),
    (0.30, 0.36, 0.26),
    (0.45, 0.16, 0.17),
    (0.66, 0.66, 0.66),
    (0.24, 0.36, 0.50),
)


@dataclass(frozen=True)
class Build:
    """Proportions of a body, each about 1."""

    shoulders: float
    hips: float
    girth: float
    legs: float
    head: float


@dataclass(frozen=True)
class Fabric:
    """Two colours and how they alternate; ``scale`` is the fineness (about 1) and ``phase`` (0 to 1) shifts it."""

    base: Color
    accent: Color
    pattern: str = "plain"
    scale: float = 1.0
    phase: float = 0.0


@dataclass(frozen=True)
class Print:
    """A figure on the front or back of the upper garment; ``size`` in metres, ``height`` 0 (shoulder) to 1 (hip)."""

    shape: str
    color: Color
    size: float
    height: float


@dataclass(frozen=True)
class Identity:
    """Everything that is the same in all images of one person.

    Args:
        build: proportions of the body.
        skin: colour of the skin.
        hair: colour of the hair.
        hair_style: outline of the hair.
        upper: fabric of the upper garment.
        sleeves: fabric of its sleeves.
        sleeve_length: covered share of the arm.
        opening: colour worn under an open jacket, None when it is closed.
        front: print on the chest, seen from the front only.
        back: print on the back, seen from behind only.
        lower_kind: cut of the lower garment; a dress or coat continues the upper fabric.
        lower: fabric of the lower garment.
        side_stripe: colour of a stripe along the outer legs, None for none.
        shoes: colour of the shoes.
        boots: share of the lower leg inside the shoes.
        bag: kind of bag.
        bag_color: its colour.
        bag_side: +1 the person's left, -1 right.
        hat: kind of hat.
        hat_color: its colour.
        scarf: colour of a scarf, None for none.
    """

    build: Build
    skin: Color
    hair: Color
    hair_style: HairStyle
    upper: Fabric
    sleeves: Fabric
    sleeve_length: float
    opening: Color | None
    front: Print | None
    back: Print | None
    lower_kind: LowerKind
    lower: Fabric
    side_stripe: Color | None
    shoes: Color
    boots: float
    bag: BagKind
    bag_color: Color
    bag_side: int
    hat: HatKind
    hat_color: Color
    scarf: Color | None


class _Wardrobe:
    """Draws one person's things from the colours of a season."""

    def __init__(self, rng: np.random.Generator, winter: bool) -> None:
        self.rng = rng
        self.palette = _WINTER if winter else _SUMMER

    def color(self, palette: Sequence[Color] | None = None) -> Color:
        palette = self.palette if palette is None else palette
        color = np.clip(
            np.array(palette[int(self.rng.integers(len(palette)))]) + self.rng.normal(0, 0.03, 3), 0.02, 0.98
        )
        return float(color[0]), float(color[1]), float(color[2])

    def maybe_color(self, rate: float) -> Color | None:
        return self.color() if self.rng.random() < rate else None

    def fabric(self, plain: float) -> Fabric:
        pattern = "plain" if self.rng.random() < plain else str(self.rng.choice(PATTERNS[1:]))
        base, accent = self.color(), self.color()
        while np.abs(np.subtract(base, accent)).max() < 0.15:  # an accent that nobody sees is none
            accent = self.color()
        return Fabric(base, accent, pattern, float(self.rng.uniform(0.7, 1.6)), float(self.rng.random()))

    def print(self, rate: float, size: tuple[float, float]) -> Print | None:
        if self.rng.random() >= rate:
            return None
        height = float(self.rng.uniform(0.25, 0.5))
        return Print(str(self.rng.choice(PRINTS)), self.color(), float(self.rng.uniform(*size)), height)

    def pick(self, shares: dict[str, float]) -> str:
        return str(self.rng.choice(list(shares), p=list(shares.values())))


def sample_identity(rng: np.random.Generator, *, winter: bool) -> Identity:
    """Draw a person dressed for a season.

    Args:
        rng: the person's own generator.
        winter: winter clothes instead of summer clothes.
    """
    wardrobe = _Wardrobe(rng, winter)
    upper = wardrobe.fabric(plain=0.35)
    jacket = rng.random() < (0.4 if winter else 0.1)
    if winter:
        lower_kinds = {"trousers": 0.62, "shorts": 0.0, "skirt": 0.08, "dress": 0.05, "coat": 0.25}
        bags = {"none": 0.35, "backpack": 0.25, "shoulder": 0.25, "hand": 0.15}
        hats = {"none": 0.6, "cap": 0.1, "beanie": 0.3}
    else:
        lower_kinds = {"trousers": 0.38, "shorts": 0.30, "skirt": 0.17, "dress": 0.15, "coat": 0.0}
        bags = {"none": 0.35, "backpack": 0.3, "shoulder": 0.2, "hand": 0.15}
        hats = {"none": 0.75, "cap": 0.25, "beanie": 0.0}
    return Identity(
        build=Build(*(float(rng.normal(1, spread)) for spread in (0.07, 0.07, 0.10, 0.04, 0.05))),
        skin=wardrobe.color(_SKINS),
        hair=wardrobe.color(_HAIRS),
        hair_style=wardrobe.pick({"bald": 0.1, "short": 0.4, "long": 0.35, "bun": 0.15}),  # type: ignore[arg-type]
        upper=upper,
        sleeves=wardrobe.fabric(plain=0.7) if rng.random() < 0.3 else upper,
        sleeve_length=0.86 if winter or jacket else float(rng.choice([0.0, 0.22, 0.4, 0.86], p=[0.15, 0.4, 0.25, 0.2])),
        opening=wardrobe.color() if jacket else None,
        front=None if jacket else wardrobe.print(0.45, (0.06, 0.12)),
        back=wardrobe.print(0.35, (0.08, 0.15)),
        lower_kind=wardrobe.pick(lower_kinds),  # type: ignore[arg-type]
        lower=wardrobe.fabric(plain=0.7),
        side_stripe=wardrobe.maybe_color(0.2),
        shoes=wardrobe.color(),
        boots=float(rng.choice([0.0, 0.45])) if winter else 0.0,
        bag=wardrobe.pick(bags),  # type: ignore[arg-type]
        bag_color=wardrobe.color(),
        bag_side=int(rng.choice([-1, 1])),
        hat=wardrobe.pick(hats),  # type: ignore[arg-type]
        hat_color=wardrobe.color(),
        scarf=wardrobe.maybe_color(0.4 if winter else 0.0),
    )
