"""The Market-1501 protocol against published code and a naive loop; memory that does not grow with the queries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mlt_ops
from mlt.evaluation.metrics import QueryRanks, evaluate_features, rank_queries, summarize
from mlt.structures import UNKNOWN

GOLDEN = Path(__file__).parents[2] / "golden" / "market_eval.npz"


def naive(distance: Tensor, q_pids: Tensor, g_pids: Tensor, q_camids: Tensor, g_camids: Tensor) -> list[tuple | None]:
    """(ap, inp, first) of each query as the protocol reads, None without a match."""
    out: list[tuple | None] = []
    for row, pid, camid in zip(distance.tolist(), q_pids.tolist(), q_camids.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in order if g_pids[g] != pid or g_camids[g] != camid or camid == UNKNOWN]
        hits = [place for place, g in enumerate(kept, 1) if g_pids[g] == pid and pid != UNKNOWN]
        ap = sum(n / place for n, place in enumerate(hits, 1)) / len(hits) if hits else 0
        out.append((ap, len(hits) / hits[-1], hits[0]) if hits else None)
    return out


def assert_equals_naive(ranks: QueryRanks, expected: list[tuple | None]) -> None:
    assert ranks.valid.tolist() == [e is not None for e in expected]
    for q, wanted in enumerate(expected):
        if wanted is not None:
            assert (float(ranks.ap[q]), float(ranks.inp[q]), int(ranks.first[q])) == pytest.approx(wanted, abs=1e-12)


def random_ids(queries: int, gallery: int, pids: int, camids: int, seed: int = 0) -> tuple[Tensor, ...]:
    draw = np.random.default_rng(seed).integers
    sizes = ((pids, queries), (pids, gallery), (camids, queries), (camids, gallery))
    return tuple(torch.from_numpy(draw(0, most, size)) for most, size in sizes)


def unit_rows(num: int, dim: int, seed: int) -> Tensor:
    rows = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def test_equals_published_code() -> None:
    golden = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN).items()}
    ranks = rank_queries(*(golden[name] for name in ("dist", "q_pids", "g_pids", "q_camids", "g_camids")))
    results = summarize(ranks)
    torch.testing.assert_close(ranks.ap, golden["all_AP"], rtol=0, atol=1e-6)
    for name in ("mAP", "mINP"):
        assert results[name] == pytest.approx(100 * float(golden[name]), abs=1e-4)
    assert results["mAP"] == pytest.approx(100 * float(golden["mmt_mAP"]), abs=1e-4)
    for k in range(1, 51):
        cmc = float((ranks.first <= k).double().mean())
        assert cmc == pytest.approx(float(golden["cmc"][k - 1]), abs=1e-6)
        assert cmc == pytest.approx(float(golden["mmt_cmc"][k - 1]), abs=1e-6)
    for k in (1, 5, 10):
        assert results[f"Rank-{k}"] == pytest.approx(100 * float(golden["cmc"][k - 1]), abs=1e-4)


@given(
    queries=st.integers(1, 9),
    gallery=st.integers(1, 25),
    pids=st.integers(1, 5),
    camids=st.integers(1, 3),
    levels=st.integers(1, 30),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_equals_naive_loop_with_ties_and_unknowns(
    queries: int, gallery: int, pids: int, camids: int, levels: int, seed: int
) -> None:
    ids = tuple(x - 1 for x in random_ids(queries, gallery, pids + 1, camids + 1, seed))  # from UNKNOWN on
    distance = torch.from_numpy(np.random.default_rng(seed).integers(-levels, levels, (queries, gallery))).float() / 7
    assert_equals_naive(rank_queries(distance, *ids), naive(distance, *ids))


def test_zero_and_minus_zero_are_a_tie() -> None:
    ids = (torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([0]), torch.tensor([1, 1]))
    assert rank_queries(torch.tensor([[0.0, -0.0]]), *ids).first.tolist() == [1]


def test_features_are_ranked_by_euclidean_distance() -> None:
    query, gallery = 2 * unit_rows(300, 6, 0), torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    ids = random_ids(300, 90, 12, 3)
    distance = torch.cdist(query.double(), gallery.double())
    assert evaluate_features(query, gallery, *ids) == pytest.approx(summarize(rank_queries(distance, *ids)))


def test_unknown_cameras_never_filter() -> None:
    distance = torch.tensor([[0.1, 0.2, 0.3]])
    pids = (torch.tensor([7]), torch.tensor([7, 8, 7]))
    known = rank_queries(distance, *pids, torch.tensor([3]), torch.tensor([3, 3, 4]))
    assert known.first.tolist() == [2]
    unknown = rank_queries(distance, *pids, torch.tensor([UNKNOWN]), torch.tensor([UNKNOWN] * 3))
    assert unknown.first.tolist() == [1]


def test_queries_without_a_match_are_skipped_and_counted() -> None:
    ids = (torch.tensor([7, 9]), torch.tensor([8, 7]), torch.tensor([0, 0]), torch.tensor([1, 1]))
    results = summarize(rank_queries(torch.tensor([[0.1, 0.2], [0.1, 0.2]]), *ids))
    assert results == {
        "Rank-1": 0,
        "Rank-5": 100,
        "Rank-10": 100,
        "mAP": 50,
        "mINP": 50,
        "metric": 25,
        "skipped": 1,
    }


def test_results_depend_on_no_chunk() -> None:
    distance = torch.rand(150, 40, generator=torch.Generator().manual_seed(2))
    q_pids, g_pids, q_camids, g_camids = random_ids(150, 40, 9, 3)
    whole = rank_queries(distance, q_pids, g_pids, q_camids, g_camids)
    for size in (1, 7, 1000):
        chunks = zip(distance.split(size), q_pids.split(size), q_camids.split(size), strict=True)
        parts = [rank_queries(rows, pids, g_pids, camids, g_camids) for rows, pids, camids in chunks]
        for one, other in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
            assert torch.equal(one[whole.valid], other[whole.valid])


def test_results_depend_on_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery, ids = unit_rows(300, 8, 7), unit_rows(200, 8, 8), random_ids(300, 200, 20, 4)
    expected = evaluate_features(query, gallery, *ids)
    monkeypatch.setattr(sys.modules["mlt_ops.count_closer"], "has_extension", lambda: False)
    assert evaluate_features(query, gallery, *ids) == expected


def test_precisions_are_added_in_the_order_of_ranks() -> None:
    """Bit for bit: averages of a set must not move in the last digit when the code that sums them changes."""
    distance, ids = torch.rand(60, 400, generator=torch.Generator().manual_seed(9)), random_ids(60, 400, 4, 3, seed=10)
    for ap, row, pid, camid in zip(rank_queries(distance, *ids).ap.tolist(), distance, ids[0], ids[2], strict=True):
        order = row.argsort(stable=True)
        kept = order[(ids[1][order] != pid) | (ids[3][order] != camid)]
        total = 0.0
        for nth, place in enumerate((ids[1][kept] == pid).nonzero().flatten().tolist(), 1):
            total += nth / (place + 1)
        assert ap == total / nth


def test_results_depend_on_no_thread_count() -> None:
    query, gallery, ids = unit_rows(300, 32, 3), unit_rows(700, 32, 4), random_ids(300, 700, 40, 4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = evaluate_features(query, gallery, *ids)
        torch.set_num_threads(2)
        assert evaluate_features(query, gallery, *ids) == one
    finally:
        torch.set_num_threads(before)


def test_errors() -> None:
    ids = random_ids(2, 3, 4, 2)
    with pytest.raises(ValueError, match=r"rank_queries: distance \[3, 2\] with pids \[2, 3\] and camids \[2, 3\]"):
        rank_queries(torch.zeros(3, 2), *ids)
    rows, pids, camids = unit_rows(3, 4, 5), torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0])
    with pytest.raises(ValueError, match="None of the 3 queries has a match"):
        evaluate_features(rows, rows, pids, pids, camids, camids)
    with pytest.raises(ValueError, match=r"gallery features \[3, 4\] with 2 pids and 3 camids"):
        evaluate_features(rows, rows, pids, pids[:2], camids, camids)
    with pytest.raises(ValueError, match=r"query features \[0, 4\]"):
        evaluate_features(rows[:0], rows, pids[:0], pids, camids[:0], camids)
    with pytest.raises(ValueError, match="query features have 4 numbers, gallery 2"):
        evaluate_features(rows, rows[:, :2], pids, pids, camids, camids)
    with pytest.raises(ValueError, match="gallery features hold NaN"):
        evaluate_features(rows, rows / 0 * 0, pids, pids, camids, camids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("queries", "gallery", "dim", "limit_mb"),
    [
        (1000, 15913, 64, 30),  # Market-1501
        (600, 82161, 32, 110),  # MSMT17
        (300, 9000, 2048, 30),  # features as wide as ResNet-50's
    ],
)
def test_memory_beside_the_features(queries: int, gallery: int, dim: int, limit_mb: int) -> None:
    """Beside the features memory depends on the gallery alone, so fewer queries and dimensions than the sets' do.

    The whole Q x G would still be too much. Features are made in place, so that making them leaves no higher peak.
    """
    code = f"""
import torch
from mlt.evaluation.metrics import evaluate_features
torch.set_num_threads(1)  # each thread of a matrix product has buffers of its own
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
generator = torch.Generator().manual_seed(0)
ids = lambda num, most: torch.randint(most, (num,), generator=generator)
rows = lambda num, dim={dim}: torch.empty(num, dim).normal_(generator=generator)
evaluate_features(rows(9), rows(99), ids(9, 5), ids(99, 5), ids(9, 3), ids(99, 3))
query, gallery = rows({queries}), rows({gallery})
pids, camids = (ids({queries}, 700), ids({gallery}, 700)), (ids({queries}, 6), ids({gallery}, 6))
before = peak()
evaluate_features(query, gallery, *pids, *camids)
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(run.stdout) < limit_mb + 60 * (not mlt_ops.has_extension())  # without it rows are sorted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_ranks_as_the_cpu_does() -> None:
    distance, ids = torch.rand(70, 90, generator=torch.Generator().manual_seed(6)), random_ids(70, 90, 9, 3)
    cpu, cuda = rank_queries(distance, *ids), rank_queries(distance.cuda(), *ids)
    assert torch.equal(cuda.first.cpu()[cpu.valid], cpu.first[cpu.valid])
    torch.testing.assert_close(cuda.ap.cpu(), cpu.ap, equal_nan=True)
