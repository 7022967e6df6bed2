"""knn: exact distances, order of ties, itself first, bounded memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlt_ops
from mlt_ops import _search, reference
from mlt_ops._inputs import full_precision


def clustered(num_rows: int, dim: int, seed: int = 0) -> Tensor:
    """Unit rows around a few centres, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, dim, generator=generator)
    rows = centres[torch.randint(7, (num_rows,), generator=generator)]
    rows = torch.nn.functional.normalize(rows + 0.3 * torch.randn(num_rows, dim, generator=generator))
    rows[num_rows // 2 : num_rows // 2 + 3] = rows[:3]
    return rows


def assert_equals_reference(found: mlt_ops.Neighbors, features: Tensor, k: int, queries: Tensor | None = None) -> None:
    distance, index = reference.knn(features.cpu().numpy(), k, None if queries is None else queries.cpu().numpy())
    np.testing.assert_array_equal(found.index.cpu(), index)
    np.testing.assert_allclose(found.distance.cpu(), distance, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("num_rows", "dim", "k"), [(60, 8, 5), (200, 64, 30), (33, 3, 33), (1, 4, 1)])
def test_equals_the_reference(device: torch.device, num_rows: int, dim: int, k: int) -> None:
    features = clustered(num_rows + 8, dim)[8 if num_rows == 1 else 0 :][:num_rows].to(device)
    assert_equals_reference(mlt_ops.knn(features, k), features, k)


def test_queries(device: torch.device) -> None:
    features, queries = clustered(90, 16).to(device), clustered(25, 16, seed=1).to(device)
    found = mlt_ops.knn(features, 10, queries=queries)
    assert found.distance.shape == found.index.shape == (25, 10)
    assert_equals_reference(found, features, 10, queries)


def test_equal_rows_are_tied_at_zero_and_each_row_comes_first_itself(device: torch.device) -> None:
    features = torch.ones(50, 2048, device=device) / 2048**0.5
    found = mlt_ops.knn(features, 4)
    assert found.distance.eq(0).all()
    assert found.index[0].tolist() == [0, 1, 2, 3]
    assert found.index[1].tolist() == [1, 0, 2, 3]
    assert found.index[40].tolist() == [40, 0, 1, 2]
    assert mlt_ops.knn(features, 3, queries=features[40:41]).index.tolist() == [[0, 1, 2]]


def test_ties_go_to_the_lowest_index(device: torch.device) -> None:
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).to(device)
    assert_equals_reference(mlt_ops.knn(grid, 9), grid, 9)


def test_small_differences_far_from_the_origin(device: torch.device) -> None:
    features = (1000 + 0.01 * clustered(80, 32)).to(device)  # |x|^2 - 2 x.y + |y|^2 alone would lose every digit
    assert_equals_reference(mlt_ops.knn(features, 6), features, 6)


def test_distances_are_symmetric_bit_for_bit(device: torch.device) -> None:
    features = clustered(64, 129).to(device)
    found = mlt_ops.knn(features, 64)
    dense = torch.empty(64, 64, device=device).scatter_(1, found.index, found.distance)
    assert torch.equal(dense, dense.T)


def test_the_memory_budget_does_not_change_the_result(device: torch.device) -> None:
    features = clustered(300, 33).to(device)
    whole, parts = mlt_ops.knn(features, 12), mlt_ops.knn(features, 12, max_memory=96 * 300 * 7)
    assert torch.equal(whole.index, parts.index)
    assert torch.equal(whole.distance, parts.distance)


@pytest.mark.parametrize("crowded", [False, True])
def test_the_memory_budget_is_kept(peak_bytes: Callable[..., int], crowded: bool) -> None:
    num_rows, dim, k, budget = 600, 32, 10, 1 << 19
    features = torch.ones(num_rows, dim) if crowded else clustered(num_rows, dim)
    beside = num_rows * (4 * (dim + 1) + 12 * k + 8 * (k + 16) + 4 + 8)  # copy, result, candidates, itself, doubtful
    assert peak_bytes(lambda: mlt_ops.knn(features, k, max_memory=budget)) <= budget + beside


@pytest.mark.parametrize("backend", ["torch", "half"])
def test_there_is_one_copy_of_the_features(peak_bytes: Callable[..., int], backend: Any) -> None:
    """And half a copy more in float16; squares and rounding errors are taken a few rows at a time."""
    features, k, budget = clustered(1500, 4096), 10, 1 << 20
    copy, part = 4 * features.numel(), 4 * _search._ELEMENTS_IN_PART["cpu"]
    beside = copy + part if backend == "torch" else copy + copy // 2 + 4 * part
    beside += len(features) * (8 + 12 * k + 8 * (k + 16) + 12)
    assert peak_bytes(lambda: mlt_ops.knn(features, k, max_memory=budget, backend=backend)) <= budget + beside


def test_ctrl_c_ends_it_within_a_second(interrupted: Callable[..., float]) -> None:
    features = clustered(9000, 1024)
    assert interrupted(lambda: [mlt_ops.knn(features, 10) for _ in range(100)]) < 1


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_the_result() -> None:
    features = clustered(500, 128)
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(mlt_ops.knn(features, 20))
    for other in found[1:]:
        assert_same_bits(other, found[0])


def near_duplicates(num_rows: int, dim: int, crowds: int = 3) -> Tensor:
    """Crowds of rows within 1e-6 of one another, far closer than products of their float32 rows can tell."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.nn.functional.normalize(torch.randn(crowds, dim, generator=generator))
    rows = centres[torch.randint(crowds, (num_rows,), generator=generator)]
    return rows + 1e-6 / dim**0.5 * torch.randn(num_rows, dim, generator=generator)


def exhaustive(features: Tensor, k: int) -> mlt_ops.Neighbors:
    """The definition: measure all pairs in float32, sort by (itself first, distance, index)."""
    num_rows = len(features)
    pair = torch.cartesian_prod(*2 * [torch.arange(num_rows, dtype=torch.int32, device=features.device)])
    pair = pair.reshape(-1, 2)
    dense = _search.measure(features, features, *pair.T.contiguous()).view(num_rows, num_rows)
    index = dense.clone().fill_diagonal_(-1).argsort(dim=1, stable=True)[:, :k]
    return mlt_ops.Neighbors(dense.gather(1, index), index)


def assert_same_bits(one: mlt_ops.Neighbors, other: mlt_ops.Neighbors) -> None:
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.distance, other.distance)


@pytest.mark.parametrize("backend", ["torch", "half", "faiss"])
def test_near_duplicates_are_searched_again_until_they_are_exact(device: torch.device, backend: Any) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
        if device.type == "cuda":
            pytest.skip("faiss searches on the CPU")
    features = near_duplicates(300, 256).to(device)
    stats: dict[str, int] = {}
    assert_same_bits(mlt_ops.knn(features, 10, backend=backend, stats=stats), exhaustive(features, 10))
    assert stats["doubtful"] == 300  # a hundred rows of a crowd are nearer than the rounding error
    budget = 96 * 300 * 7
    assert_same_bits(mlt_ops.knn(features, 10, backend=backend, max_memory=budget), exhaustive(features, 10))
    mlt_ops.knn(clustered(300, 256).to(device), 10, backend=backend, stats=stats)
    assert stats["doubtful"] == 0


def test_candidates_alone_would_be_wrong_for_near_duplicates(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would not see a search that leaves doubtful rows as they are, if candidates were right anyway."""
    features = near_duplicates(300, 256).to(device)
    monkeypatch.setattr(mlt_ops.knn.__globals__["_Search"], "settle_again", lambda self, which: None)
    assert not torch.equal(mlt_ops.knn(features, 10).index, exhaustive(features, 10).index)


@pytest.mark.parametrize("backend", ["torch", "half"])
def test_more_candidates_settle_what_is_left_of_the_doubt(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    """Ten crowds of 30 rows: 8 + 16 candidates leave a doubt, 8 + 40 do not. A crowd of 100 needs all rows."""
    module = mlt_ops.knn.__globals__
    features, crowd = near_duplicates(300, 256, crowds=10).to(device), near_duplicates(300, 256).to(device)
    monkeypatch.setitem(module["_SPARE_AGAIN"], device.type, 40)
    assert_same_bits(mlt_ops.knn(crowd, 8, backend=backend), exhaustive(crowd, 8))
    monkeypatch.setattr(module["_Search"], "settle_again", lambda self, which: pytest.fail(f"all rows for {which}"))
    for max_memory in (96 * 300 * 7, None):
        stats: dict[str, int] = {}
        found = mlt_ops.knn(features, 8, backend=backend, max_memory=max_memory, stats=stats)
        assert_same_bits(found, exhaustive(features, 8))
        assert stats["doubtful"] > 200


@pytest.mark.parametrize("num_rows", [40, 700])
@pytest.mark.parametrize("k", [1, 7])
def test_tiles_give_what_an_exhaustive_search_gives(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, num_rows: int, k: int
) -> None:
    features = clustered(num_rows, 48).to(device)
    found = [mlt_ops.knn(features, k)]
    monkeypatch.setitem(mlt_ops.knn.__globals__["_TILE"], device.type, 33)  # many tiles, the last ones smaller
    found += [mlt_ops.knn(features, k), mlt_ops.knn(features[5:], k, queries=features)]
    assert_same_bits(found[0], exhaustive(features, k))
    assert_same_bits(found[1], found[0])
    assert_equals_reference(found[2], features[5:], k, features)


def test_each_query_has_its_own_rounding_error(device: torch.device) -> None:
    """Candidates that bounds rule out are not measured; where all rows are candidates, no second search follows."""
    features, k = (3e-7 * clustered(20, 32)).to(device), 5
    queries = torch.cat([features, 3 * clustered(20, 32, seed=1).to(device)])  # at last such that see all rows alike
    for max_memory in (96 * 20, None):
        found = mlt_ops.knn(features, k, queries=queries, max_memory=max_memory)
        pairs = torch.arange(40 * 20, dtype=torch.int32, device=device)
        dense = _search.measure(queries, features, pairs // 20, pairs % 20).view(40, 20)
        index = dense.argsort(dim=1, stable=True)[:, :k]
        assert_same_bits(found, mlt_ops.Neighbors(dense.gather(1, index), index))


@pytest.mark.parametrize(("backend", "most"), [("torch", 1), ("half", 5)])
def test_one_far_row_does_not_make_the_others_doubtful(device: torch.device, backend: Any, most: int) -> None:
    features = clustered(200, 32)
    features[17] *= 1000
    features, stats = features.to(device), {}
    assert_same_bits(mlt_ops.knn(features, 5, backend=backend, stats=stats), exhaustive(features, 5))
    assert stats["doubtful"] <= most


def test_bounds_hold(device: torch.device) -> None:
    for dim, scale in ((1, 1.0), (3, 1e4), (256, 1e-3), (2048, 1.0)):
        features = (scale * clustered(60, dim)).to(device)
        centred = _search.Centred.of(features, features.mean(dim=0))
        found = exhaustive(features, 60)
        exact = torch.empty_like(found.distance).scatter_(1, found.index, found.distance)
        half = centred.half(_search.half_unit(centred.base))
        for rows, error in ((centred, _search.relative_error(dim)), (half, 2.0**-10 + _search.relative_error(dim))):
            bounds = _search.lower_bounds(rows, rows)
            assert (bounds <= exact).all()
            assert (bounds + rows.spread + rows.spread[:, None] >= exact).all()
            assert (bounds >= exact - 2.5 * error * 2 * centred.norms.max()).all()


@pytest.mark.parametrize("scale", [0.0, 2.0**-75, 1.0])
def test_bounds_of_faiss_hold(scale: float) -> None:
    pytest.importorskip("faiss")
    features = scale * clustered(60, 32)
    features[17] *= 1000  # the errors of a pair are those of its larger row
    centred, found = _search.Centred.of(features, features.mean(dim=0)), exhaustive(features, 60)
    exact = torch.empty_like(found.distance).scatter_(1, found.index, found.distance)
    bounds, index = _search.propose_by_faiss(centred, centred, 60, 7)
    assert (bounds < exact.gather(1, index.long())).all()  # also where all squares underflow
    assert (bounds + centred.spread[:, None] + centred.spread.max() >= exact.gather(1, index.long())).all()


def test_float16_shows_in_the_bounds_alone(device: torch.device) -> None:
    features = clustered(400, 64).to(device)
    features[3] = features[4] + 1e-4  # closer than float16 can tell
    whole = mlt_ops.knn(features, 12)
    for scale in (1.0, 2.0**-50, 2.0**-20, 2.0**20, 2.0**50):
        stats: dict[str, int] = {}
        found = mlt_ops.knn(scale * features, 12, backend="half", stats=stats)
        assert_same_bits(mlt_ops.Neighbors(found.distance / scale**2, found.index), whole)
        assert stats["doubtful"] == 0
        part = mlt_ops.knn(scale * features, 12, queries=scale * features[100:], backend="half")
        assert torch.equal(part.index, mlt_ops.knn(features, 12, queries=features[100:]).index)
    centred = _search.Centred.of(features, features.mean(dim=0))
    assert (centred.half(_search.half_unit(centred.base)).floors < centred.floors).all()


@pytest.mark.parametrize("backend", ["torch", "half"])
@pytest.mark.parametrize(("dim", "scale"), [(64, 2.0**-72), (512, 2.0**-70), (4, 2.0**-70)])
def test_squares_that_underflow(device: torch.device, backend: Any, dim: int, scale: float) -> None:
    features = scale * clustered(400, dim).to(device)
    assert_same_bits(mlt_ops.knn(features, 10, backend=backend), exhaustive(features, 10))


def test_float16_sums_in_float32(device: torch.device) -> None:
    features = clustered(50, 2048).to(device)
    half = _search.Centred.of(features, features.mean(dim=0)).half(2.0**14)
    rounded = half.base.double() / 2.0**14
    wanted = half.floors.double() + half.floors.double()[:, None] - 2 * rounded @ rounded.T
    torch.testing.assert_close(_search.lower_bounds(half, half).double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [torch.zeros(0, 3), torch.zeros(5, 3), torch.full((4, 2), 1e-30)])
def test_half_unit_of_nothing_and_next_to_nothing(rows: Tensor) -> None:
    assert _search.half_unit(rows) in (2.0**15, 2.0**60)
    if len(rows):
        assert mlt_ops.knn(rows, 2, backend="half").distance.eq(0).all()


@pytest.mark.parametrize("dim", [1, 31, 32, 33, 200])
def test_pairs_are_measured_alike_without_the_extension(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    features = clustered(90, dim).to(device)
    with_extension = mlt_ops.knn(features, 12)
    monkeypatch.setattr(_search, "has_extension", lambda: False)
    monkeypatch.setattr(_search, "has_cuda", lambda device: False)
    monkeypatch.setattr(_search, "_PAIRS_IN_CACHE", 7)
    assert_same_bits(mlt_ops.knn(features, 12), with_extension)


def search_in_group(rank: int, folder: str) -> None:
    """One process of two; the second then passes other features than the first, and at last it fails."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stats: dict[str, int] = {}
    found = {}
    for name, features, queries in group_cases():
        found[name] = tuple(mlt_ops.knn(features, 6, queries=queries, group=dist.group.WORLD, stats=stats))
        found[name] += (torch.tensor(stats["doubtful"]),)
    with pytest.raises(ValueError, match="all processes of the group must pass the same arguments"):
        mlt_ops.knn(clustered(20, 4, seed=rank), 3, group=dist.group.WORLD)
    rows, same = clustered(20, 4), "must pass the same arguments"
    with pytest.raises(ValueError, match=same):
        mlt_ops.knn(rows if rank == 0 else rows.flip(0), 3, group=dist.group.WORLD)
    with pytest.raises(ValueError, match=same):
        mlt_ops.knn(rows, 3, queries=rows[:5] + rank, group=dist.group.WORLD)
    wrong = (RuntimeError, ValueError)[rank], ("failed on process 1 of the group", "k must be between 1 and")[rank]
    with pytest.raises(wrong[0], match=f"knn: {wrong[1]}"):
        mlt_ops.knn(rows, 3 + 20 * rank, group=dist.group.WORLD)
    refused_by = (RuntimeError, TypeError)[rank], ("failed on process 1", "must be a torch.Tensor, got list")[rank]
    with pytest.raises(refused_by[0], match=refused_by[1]):
        mlt_ops.knn((rows, rows.tolist())[rank], 3, group=dist.group.WORLD)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(sys.modules["mlt_ops.knn"], "unchecked_knn", out_of_memory)
        wanted = (RuntimeError, MemoryError)[rank], ("knn: failed on process 1 of the group", "no room")[rank]
        with pytest.raises(wanted[0], match=wanted[1]):
            mlt_ops.knn(clustered(20, 4), 3, group=dist.group.WORLD)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def out_of_memory(*args: object) -> None:
    raise MemoryError("no room")


def group_cases() -> list[tuple[str, Tensor, Tensor | None]]:
    return [
        ("odd number of rows", clustered(101, 16), None),
        ("queries", clustered(60, 16), clustered(15, 16, seed=1)),
        ("fewer queries than processes", clustered(60, 16), clustered(1, 16, seed=1)),
        ("near duplicates", near_duplicates(90, 32), None),
    ]


def test_processes_share_the_search(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(search_in_group, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, features, queries in group_cases():
        stats: dict[str, int] = {}
        alone = mlt_ops.knn(features, 6, queries=queries, stats=stats)
        for found in both:
            assert_same_bits(mlt_ops.Neighbors(*found[name][:2]), alone)
            assert int(found[name][2]) == stats["doubtful"]
    assert stats["doubtful"] > 0


@pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())
def test_opcheck(device: torch.device) -> None:
    rows = clustered(20, 5).to(device)
    pairs = torch.arange(20, dtype=torch.int32, device=device), torch.arange(20, dtype=torch.int32, device=device)
    torch.library.opcheck(torch.ops.mlt_ops.pair_distance.default, (rows, rows, *pairs))
    kept = torch.full((5, 3), torch.inf, device=device), torch.zeros(5, 3, dtype=torch.int32, device=device)
    floors = rows[:, 0].contiguous(), rows[0].contiguous()
    torch.library.opcheck(torch.ops.mlt_ops.merge_nearest.default, (rows, *floors, -2.0, 0, True, *kept))


@pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build())
def test_the_operators_check_their_arguments() -> None:
    rows, numbers = torch.ones(4, 3), torch.zeros(4, dtype=torch.int32)
    kept = torch.ones(4, 2), torch.zeros(4, 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="pair_distance: query and row must be equally long, got 4 and 3"):
        torch.ops.mlt_ops.pair_distance(rows, rows, numbers, numbers[:3])
    with pytest.raises(RuntimeError, match="queries and rows must be equally wide, got 3 and 2"):
        torch.ops.mlt_ops.pair_distance(rows, torch.ones(4, 2), numbers, numbers)
    with pytest.raises(RuntimeError, match="distance and index must have 3 rows, got 4 and 4"):
        torch.ops.mlt_ops.merge_nearest(rows, torch.ones(4), torch.ones(3), -2.0, 0, True, *kept)
    with pytest.raises(RuntimeError, match="floors of 4 rows and 3 columns, got 3 and 3"):
        torch.ops.mlt_ops.merge_nearest(rows, torch.ones(3), torch.ones(3), -2.0, 0, False, *kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(device: torch.device, dtype: torch.dtype) -> None:
    features = clustered(40, 16).to(device, dtype)
    found, expected = mlt_ops.knn(features, 5), mlt_ops.knn(features.float(), 5)
    assert found.distance.dtype == torch.float32
    assert torch.equal(found.index, expected.index)


def test_the_callers_precision_is_ignored_and_kept(device: torch.device) -> None:
    features = clustered(60, 256).to(device)
    expected = mlt_ops.knn(features, 5)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found = mlt_ops.knn(features, 5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.distance, expected.distance)


def test_precision_is_restored_by_the_last_of_several_threads() -> None:
    """Operators release the GIL, so two threads may search at a time."""
    before, settings = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    inside, may_leave = threading.Event(), threading.Event()

    def search() -> None:
        with full_precision(torch.device("cpu")):
            inside.set()
            may_leave.wait(30)

    other = threading.Thread(target=search)
    try:
        torch.set_float32_matmul_precision("medium")
        medium = settings.fp32_precision
        with full_precision(torch.device("cpu")):
            other.start()
            assert inside.wait(30)
        assert settings.fp32_precision == "ieee" != medium
        may_leave.set()
        other.join()
        assert settings.fp32_precision == medium
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_precision_that_follows_the_general_one_goes_on_to_do_so() -> None:
    everything, product = torch.backends, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = everything.fp32_precision, product.fp32_precision
    try:
        product.fp32_precision = "none"
        for general in ("tf32", "ieee"):
            everything.fp32_precision = general
            assert product.fp32_precision == general
            mlt_ops.knn(clustered(40, 16), 5)
            assert product.fp32_precision == general
    finally:
        everything.fp32_precision, product.fp32_precision = before


def test_layout_and_gradients_do_not_matter(device: torch.device) -> None:
    features = clustered(40, 16).to(device)
    strided = features.T.contiguous().T.requires_grad_()
    found = mlt_ops.knn(strided, 5)
    assert torch.equal(found.index, mlt_ops.knn(features, 5).index)
    assert not found.distance.requires_grad


def test_no_queries_give_no_rows(device: torch.device) -> None:
    found = mlt_ops.knn(clustered(20, 4).to(device), 3, queries=torch.empty(0, 4, device=device))
    assert found.distance.shape == found.index.shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_finds_what_the_cpu_finds() -> None:
    features = clustered(400, 96)
    cpu, cuda = mlt_ops.knn(features, 20), mlt_ops.knn(features.cuda(), 20)
    assert_same_bits(mlt_ops.Neighbors(cuda.distance.cpu(), cuda.index.cpu()), cpu)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(5), {"k": 1}, r"knn: features must be 2-D \[N, D\], got shape \(5,\)"),
        (torch.zeros(5, 2, dtype=torch.int64), {"k": 1}, "floating point, got torch.int64"),
        (torch.zeros(5, 2, device="meta"), {"k": 1}, r"features must be on a CPU or CUDA device, got meta"),
        (torch.tensor([[0.0], [float("nan")]]), {"k": 1}, "1 of 2 rows hold NaN or infinity"),
        (torch.full((2, 2), 1e19), {"k": 1}, "too large for float32"),
        (torch.full((5, 2), 1e200, dtype=torch.float64), {"k": 1}, r"too large for float32 \(largest 1e\+200\)"),
        (torch.zeros(5, 2), {"k": 2.0}, "k must be a whole number, got 2.0"),
        (torch.zeros(5, 2), {"k": 1, "max_memory": -1}, "max_memory must be above 0 bytes, got -1"),
        (torch.zeros(5, 2), {"k": 1, "max_memory": 1e9}, "max_memory must be a whole number, got 1000000000.0"),
        (torch.zeros(5, 2), {"k": 6}, r"k must be between 1 and the number of features \(5\), got 6"),
        (torch.zeros(5, 2), {"k": 0}, "got 0"),
        (torch.zeros(5, 2), {"k": 1, "queries": torch.zeros(1, 3)}, "must share D and device, got D=3"),
        (torch.zeros(5, 2), {"k": 1, "queries": torch.tensor([[0, float("inf")]])}, "queries must be finite"),
        (
            torch.zeros(5, 2),
            {"k": 1, "backend": "annoy"},
            "backend must be one of auto, torch, half, faiss, got 'annoy'",
        ),
        (torch.zeros(5, 2), {"k": 1, "max_memory": 100}, "max_memory=100 bytes is too little, one row needs 480"),
    ],
)
def test_errors(features: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.knn(features, **options)


def test_any_integer_grid_equals_the_reference() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**31), st.data())
    @hypothesis.settings(max_examples=50)
    def check(num_rows: int, dim: int, seed: int, data: object) -> None:
        features = torch.randint(-3, 4, (num_rows, dim), generator=torch.Generator().manual_seed(seed)).float()
        k = data.draw(st.integers(1, num_rows))  # type: ignore[attr-defined]
        assert_equals_reference(mlt_ops.knn(features, k), features, k)

    check()
