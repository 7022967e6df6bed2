"""The evaluation benchmark: its ids are like Market-1501's, and its usual way computes what ours does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mlt.evaluation.metrics import rank_queries, summarize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmarks/bench_eval")


def test_ids_are_drawn_as_the_set_has_them(bench: ModuleType) -> None:
    q_pids, g_pids, q_camids, g_camids = bench.make_ids(0)
    assert (len(q_pids), len(g_pids), len(q_camids), len(g_camids)) == (3368, 15913, 3368, 15913)
    assert int((g_pids == bench.DISTRACTOR).sum()) == 2798
    assert set(q_pids.tolist()) <= set(range(1, 751))
    assert set(q_camids.tolist()) == set(g_camids.tolist()) == set(range(6))
    same = q_pids[:, None] == g_pids
    own = same & (q_camids[:, None] == g_camids)
    assert 10 < same.sum() / 3368 < 25
    assert 2 < own.sum() / 3368 < 6
    assert len({*zip(q_pids.tolist(), q_camids.tolist(), strict=True)}) == 3368  # one query for each visit to a camera


def test_the_usual_way_computes_the_same(bench: ModuleType) -> None:
    ids = tuple(torch.randint(1, most, (size,)) for most, size in ((9, 80), (12, 300), (4, 80), (4, 300)))
    distance = (torch.rand(80, 300) * 50).round()
    ours = summarize(rank_queries(distance, *ids))
    sorted_whole = bench.evaluate_by_sorting(distance.numpy(), ids, "stable")
    assert sorted_whole == pytest.approx({name: ours[name] for name in sorted_whole}, abs=1e-9)
