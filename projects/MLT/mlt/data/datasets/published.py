"""How large each set is said to be, to see whether a copy is whole."""

from __future__ import annotations

from typing import NamedTuple


class Count(NamedTuple):
    """Size of one split.

    Args:
        images: number of images.
        pids: number of identities; all distractors of a gallery (pid 0) count as one.
    """

    images: int
    pids: int


class Published(NamedTuple):
    """Published size of a set; None = not published, or not known to us for certain.

    Args:
        train: training images.
        query: queries; with random galleries, those of one trial.
        gallery: gallery without junk and without queries.
        cameras: in all splits together; 0 = the set tells no cameras.
    """

    train: Count
    query: Count | None
    gallery: Count | None
    cameras: int


def _vehicleid(query: Count | None, gallery: Count | None) -> Published:
    return Published(Count(113_346, 13_164), query, gallery, 0)


def _veriwild(pids: int, gallery: int) -> Published:
    return Published(Count(277_797, 30_671), Count(pids, pids), Count(gallery, pids), 174)


# Sources: the papers named in each reader, and FastReID's, SpCL's and OpenUnReID's readers for what they leave out.
PUBLISHED = {
    "Market1501": Published(Count(12_936, 751), Count(3_368, 750), Count(15_913, 751), 6),
    "DukeMTMC": Published(Count(16_522, 702), Count(2_228, 702), Count(17_661, 1_110), 8),
    "MSMT17": Published(Count(32_621, 1_041), Count(11_659, 3_060), Count(82_161, 3_060), 15),
    "PersonX": Published(Count(9_840, 410), Count(5_136, 856), Count(30_816, 856), 6),
    "VeRi": Published(Count(37_778, 576), Count(1_678, 200), Count(11_579, 200), 20),
    "VehicleID": _vehicleid(None, None),
    "SmallVehicleID": _vehicleid(Count(5_693, 800), Count(800, 800)),
    "MediumVehicleID": _vehicleid(Count(11_777, 1_600), Count(1_600, 1_600)),
    "LargeVehicleID": _vehicleid(Count(17_377, 2_400), Count(2_400, 2_400)),
    "VeRiWild": _veriwild(10_000, 128_517),
    "SmallVeRiWild": _veriwild(3_000, 38_861),
    "MediumVeRiWild": _veriwild(5_000, 64_389),
    "LargeVeRiWild": _veriwild(10_000, 128_517),
}
