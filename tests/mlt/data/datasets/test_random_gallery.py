"""Random galleries: fair, complete, and part of the set itself."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlt.data.datasets.random_gallery import split_at_random
from mlt.structures import ReidRecord, ReidSet


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_trial_has_one_gallery_image_of_each_identity(pids: list[int], num_trials: int) -> None:
    if len(set(pids)) == len(pids):
        pids = [*pids, pids[0]]  # somebody must be left to ask
    test = [ReidRecord(f"{i:02d}.jpg", pid) for i, pid in enumerate(pids)]
    found = split_at_random("x", (), test, num_trials)
    pool = found.query + found.gallery
    assert sorted(pool, key=lambda r: r.path) == test
    assert len(found.trials()) == num_trials
    for query, gallery in found.trials():
        assert sorted(pool[i].pid for i in gallery) == sorted(set(pids))
        assert sorted([*query.tolist(), *gallery.tolist()]) == list(range(len(pids)))


def test_every_image_is_drawn_equally_often() -> None:
    test = [ReidRecord(f"{i}.jpg", 0) for i in range(4)]
    found = split_at_random("x", (), test, 2000)
    pool = found.query + found.gallery
    drawn = Counter(pool[int(gallery[0])].path for _, gallery in found.trials())
    assert min(drawn.values()) > 430  # 500 expected, deviation 19
    assert max(drawn.values()) < 570


def test_no_test_images() -> None:
    assert split_at_random("x", (), ()) == ReidSet("x", ())


@pytest.mark.parametrize(
    ("galleries", "message"),
    [
        (((),), r"x: random gallery 0 must hold some, not all, of the positions 0..2; got 0 of None"),
        (((0,), (0, 1, 2)), "random gallery 1 must hold some"),
        (((0, 3),), r"got 2 of 0..3"),
        (((-1, 0),), r"got 2 of -1..0"),
    ],
)
def test_impossible_galleries(galleries: tuple[tuple[int, ...], ...], message: str) -> None:
    query, gallery = (ReidRecord("a"), ReidRecord("b")), (ReidRecord("c"),)
    with pytest.raises(ValueError, match=message):
        ReidSet("x", (), query, gallery, random_galleries=galleries)
