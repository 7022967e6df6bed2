"""Training images of one or several sets, with identities and cameras in one numbering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlt.structures import UNKNOWN, ReidRecord, ReidSet


def merge_train(sets: Sequence[ReidSet]) -> tuple[ReidRecord, ...]:
    """Training records of all sets, one set after the other.

    Args:
        sets: the sets; none is fine.

    Returns:
        Records with pids 0 .. S-1 in the order of (set, old pid), and with cameras moved so that two sets share
        none. UNKNOWN stays UNKNOWN.
    """
    known = sorted({(n, record.pid) for n, one in enumerate(sets) for record in one.train if record.pid != UNKNOWN})
    pids = {old: new for new, old in enumerate(known)}
    merged, first_camera = [], 0
    for n, one in enumerate(sets):
        for record in one.train:
            camid = UNKNOWN if record.camid == UNKNOWN else record.camid + first_camera
            merged.append(replace(record, pid=pids.get((n, record.pid), UNKNOWN), camid=camid))
        first_camera += max((record.camid for record in one.train), default=UNKNOWN) + 1
    return tuple(merged)
