"""The fixed random order in which BN statistics are estimated."""

from __future__ import annotations

from mlt.data.build import shuffled
from mlt.structures import ReidRecord


def test_every_record_once_in_the_same_mixed_order() -> None:
    records = [ReidRecord(f"{i}.jpg", pid=i // 10) for i in range(200)]
    mixed = shuffled(records)
    assert mixed == shuffled(records)
    assert sorted(mixed, key=records.index) == records
    assert len({record.pid for record in mixed[:20]}) > 10  # the sorted set has two here
