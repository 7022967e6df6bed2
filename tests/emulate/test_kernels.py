"""The CUDA kernels' code on CPU threads, in many orders of execution: the bits of the CPU kernels, no hang, no race.

Tables, workspaces and grids are so small that rows overflow into global memory and blocks take several tasks. Of a GPU
this says nothing but that: neither its memory model nor its compiler nor its speed is here.

EMULATE_MODE: "plain", "races" or "memory" (see build.py; with the address sanitizer preloaded). EMULATE_SEEDS: how many
orders of execution.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

import mlt_ops
from mlt_ops import _sparse as sparse
from tests.emulate.build import build_mlt_ops
from tests.emulate.on_cpu import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no g++ here"),
    pytest.mark.skipif(not mlt_ops.has_extension(), reason=mlt_ops.describe_build()),
]
Call = Callable[..., Any]
MODE = os.environ.get("EMULATE_MODE", "plain")
SEEDS = range(int(os.environ.get("EMULATE_SEEDS", "2")))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Calls an operator by name, CPU and emulated CUDA kernel, and fails where their bits differ."""
    return load(build_mlt_ops(tmp_path_factory.mktemp("emulate"), MODE, small=True))


@pytest.fixture(params=SEEDS)
def both(request: pytest.FixtureRequest, library: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`library` in several orders of execution."""
    monkeypatch.setenv("EMULATE_SEED", str(request.param))
    return library


def features_of(num_rows: int, dim: int, noise: float = 0.5) -> Tensor:
    """Rows around some centres, the last ones copies of the first."""
    centres = torch.randn(max(num_rows // 12, 1), dim)
    rows = normalize(centres[torch.randint(len(centres), (num_rows,))] + noise * torch.randn(num_rows, dim))
    rows[num_rows - num_rows // 8 :] = rows[: num_rows // 8]
    return rows


def rowptr_of(count: Tensor) -> Tensor:
    return pad(count.cumsum(0), (1, 0))


def sets_of(both: Call, rows: Tensor, k1: int, width: int, pieces: int = 1) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Neighbours, and k-reciprocal sets as CSR."""
    num_rows = len(rows)
    distance, found = mlt_ops.knn(rows, min(k1, num_rows))
    order, index = torch.arange(num_rows).int(), found.int()
    bounds = torch.linspace(0, num_rows, pieces + 1).int().tolist()
    ranges = list(pairwise(bounds))
    full, half = (
        torch.cat([both("mutual_neighbors", index, min(size, index.shape[1]), *some) for some in ranges])
        for size in (k1, width)
    )
    scale = 0.5 + torch.rand(num_rows)
    built = [both("k_reciprocal", rows, order, distance, index, full, half, scale, *some) for some in ranges]
    count, col, value = (torch.cat(part) for part in zip(*built, strict=True))
    return index, (rowptr_of(count), col, value)


@pytest.mark.parametrize("shared_bytes", [65536, 1024])  # tables in shared memory, in global memory
@pytest.mark.parametrize(
    ("num_rows", "dim", "k1", "width"),
    [(1, 3, 5, 3), (2, 1, 2, 2), (33, 40, 33, 33), (120, 7, 12, 7), (90, 33, 60, 31)],
)
def test_sets(
    both: Call, monkeypatch: pytest.MonkeyPatch, shared_bytes: int, num_rows: int, dim: int, k1: int, width: int
) -> None:
    monkeypatch.setenv("EMULATE_SHARED_BYTES", str(shared_bytes))
    sets_of(both, features_of(num_rows, dim), k1, width, pieces=2)


@pytest.mark.parametrize(("num_rows", "k1", "k2"), [(2, 2, 1), (60, 9, 6), (90, 36, 7)])  # most of the last overflow
def test_expansion_and_distances(both: Call, num_rows: int, k1: int, k2: int) -> None:
    index, sets = sets_of(both, features_of(num_rows, 24, noise=0.8), k1, k1 // 2 + 1)
    middle = num_rows // 3
    built = [both("expand_query", *sets, index, num_rows, k2, *some) for some in ((0, middle), (middle, num_rows))]
    count, col, value = (torch.cat(part) for part in zip(*built, strict=True))
    csr = (rowptr_of(count), col, value)
    columns = sparse.transpose(*csr, num_rows)
    for max_distance in (0.5, 1.0):
        both("jaccard", *csr, *columns, max_distance, 0, middle)
        both("jaccard", *csr, *columns, max_distance, middle, num_rows)


def test_equal_rows(both: Call) -> None:
    index, sets = sets_of(both, torch.ones(70, 4), 20, 11)
    csr = (rowptr_of((expanded := both("expand_query", *sets, index, 70, 5, 0, 70))[0]), *expanded[1:])
    both("jaccard", *csr, *sparse.transpose(*csr, 70), 0.6, 0, 70)


@pytest.mark.parametrize("num_rows", [127, 128, 129, 300])
def test_more_lists_than_threads(both: Call, num_rows: int) -> None:
    """A row and a column with entries everywhere among sparse ones."""
    dense = torch.rand(num_rows, num_rows)
    dense = dense.where(dense > 0.97, 0)
    dense[num_rows // 2], dense[:, 1] = torch.rand(num_rows), 0.5
    csr = rowptr_of((dense > 0).sum(dim=1)), dense.nonzero()[:, 1].int(), dense[dense > 0] / num_rows
    both("jaccard", *csr, *sparse.transpose(*csr, num_rows), 1.0, 0, num_rows)
    index = torch.rand(num_rows, num_rows).argsort(dim=1).int()
    both("expand_query", *csr, index, num_rows, num_rows, 0, 5)


@pytest.mark.parametrize("num_cols", [48, 49, 192, 193])
def test_tables_of_every_size(both: Call, num_cols: int) -> None:
    """As many columns as fit into three quarters of a table of 64 in shared memory, of 256 behind it, and one more.

    Short lists come first: a row that does not fit has begun to fill each table that is too small for it.
    """
    lengths = torch.tensor([3, num_cols // 2, num_cols, 1, num_cols])
    col = torch.cat([torch.randperm(num_cols)[:length].sort().values for length in lengths]).int()
    sets = rowptr_of(lengths), col, torch.rand(len(col)) / num_cols
    index = torch.tensor([[2, 1], [1, 4], [0, 2], [3, 1], [4, 2]]).int()
    for k2 in (1, 2):
        both("expand_query", *sets, index, num_cols, k2, 0, 5)

    weight, own = torch.rand(num_cols), torch.arange(1, num_cols + 1)  # a column that all rows have, and one of its own
    col, value = torch.stack([0 * own, own], dim=1).int().flatten(), torch.stack([weight, 1 - weight], dim=1).flatten()
    rowptr = torch.arange(0, 2 * num_cols + 1, 2)
    columns = sparse.transpose(rowptr, col, value, num_cols + 1)
    both("jaccard", rowptr, col, value, *columns, 0.6, num_cols - 3, num_cols)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("min_samples", [1, 4, 9])
def test_dbscan(both: Call, density: float, min_samples: int) -> None:
    upper = torch.rand(310, 310).triu(1)
    upper = upper.where(upper > 1 - density, 0)
    near = upper + upper.T + torch.eye(310)
    row, col = near.nonzero(as_tuple=True)
    csr = rowptr_of((near > 0).sum(dim=1)), col.int(), 1 - near[row, col]
    both("dbscan", *csr, density / 2, min_samples)
    both("dbscan", *csr, 1.0, min_samples)


@pytest.mark.parametrize("step", [1, 7, 200])
def test_dbscan_of_chains(both: Call, step: int) -> None:
    """Long paths to the root, which many threads shorten while others join them."""
    place = torch.randperm(400)
    row, col = place[:-step], place[step:]
    near = torch.eye(400)
    near[row, col] = near[col, row] = 0.5
    labels = both("dbscan", rowptr_of((near > 0).sum(dim=1)), near.nonzero()[:, 1].int(), near[near > 0], 0.6, 2)
    assert len(labels.unique()) == step


@pytest.mark.parametrize(("num_rows", "dim", "segments"), [(0, 3, 2), (50, 1, 90), (300, 257, 7), (40, 600, 41)])
def test_segment_mean(both: Call, num_rows: int, dim: int, segments: int) -> None:
    labels = torch.randint(-1, segments - 1, (num_rows,)).sort().values
    rowptr = torch.searchsorted(labels, torch.arange(segments + 1))
    both("segment_mean", torch.randn(num_rows, dim), torch.randperm(num_rows), rowptr)


@pytest.mark.parametrize(("num_pairs", "dim"), [(0, 4), (1, 1), (700, 31), (90, 129)])
def test_pair_distance(both: Call, num_pairs: int, dim: int) -> None:
    query, row = torch.randint(20, (num_pairs,)).int(), torch.randint(30, (num_pairs,)).int()
    both("pair_distance", torch.randn(20, dim), torch.randn(30, dim), query, row)


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("width", [1, 30, 47, 129])
@pytest.mark.parametrize(("num_lines", "length", "side"), [(1, 130, 7), (33, 300, 131), (70, 500, 500)])
def test_merge_nearest(both: Call, num_lines: int, length: int, side: int, width: int, by_column: bool) -> None:
    products, own, other = (torch.randint(500, size) / 4.0 for size in ((num_lines, length), (num_lines,), (length,)))
    lines = own.unsqueeze(1) + other - 2 * products
    distance, index = torch.full((num_lines, width), torch.inf), torch.full((num_lines, width), -1).int()
    for first in range(0, length, side):
        tile, floors = products[:, first : first + side], (own, other[first : first + side])
        tile, floors = (tile.T, floors[::-1]) if by_column else (tile, floors)
        both("merge_nearest", tile.contiguous(), *floors, -2.0, first, by_column, distance, index)
    assert torch.equal(distance.sort().values, lines.sort().values[:, :width])
    assert torch.equal(lines.gather(1, index.long()), distance)
    assert all(len(line.unique()) == width for line in index)


@pytest.mark.parametrize(("num_rows", "num_cols"), [(1, 1), (50, 17), (3, 257), (40, 600)])
def test_count_closer(both: Call, num_rows: int, num_cols: int) -> None:
    distance = torch.randint(-3, 4, (num_rows, num_cols)) / 2.0
    distance[torch.rand_like(distance) < 0.1] = torch.nan
    distance[torch.rand_like(distance) < 0.1] = -0.0
    columns = []
    for share in (12 / num_cols, 0.3):
        chosen = torch.rand_like(distance) < share
        columns += [rowptr_of(chosen.sum(dim=1)), chosen.nonzero()[:, 1].int()]
    both("count_closer", distance, *columns)


def test_no_rows(both: Call) -> None:
    index, pointer, none, value = torch.zeros(0, 3).int(), torch.zeros(1).long(), torch.zeros(0).int(), torch.zeros(0)
    sets = both("mutual_neighbors", index, 3, 0, 0)
    both("k_reciprocal", torch.zeros(0, 5), none, torch.zeros(0, 3), index, sets, sets, value, 0, 0)
    both("expand_query", pointer, none, value, index, 0, 1, 0, 0)
    both("jaccard", pointer, none, value, pointer, none, value, 0.6, 0, 0)
    both("dbscan", pointer, none, value, 0.5, 2)
    both("segment_mean", torch.zeros(0, 5), none.long(), pointer)
    tile = torch.zeros(0, 5), torch.zeros(0), torch.zeros(5), -2.0
    both("merge_nearest", *tile, 0, False, torch.zeros(0, 3), torch.zeros(0, 3).int())
    both("merge_nearest", *tile, 0, True, torch.zeros(5, 3), torch.zeros(5, 3).int())
    both("pair_distance", torch.zeros(0, 5), torch.zeros(0, 5), none, none)
    both("count_closer", torch.zeros(0, 5), pointer, none, pointer, none)


def test_places_beyond_32_bits(library: Call, tmp_path: Path) -> None:
    """Rows at the end of tensors of more than 2^31 elements, of which only a few pages exist."""

    def large(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.from_file(str(tmp_path / name), shared=True, size=torch.Size(shape).numel(), dtype=dtype).view(
            shape
        )

    num_rows, dim, k = (1 << 20) + 50, 1 << 12, 1 << 11
    features = large("features", num_rows, dim)
    features[-40:] = torch.randn(40, dim)
    last = torch.arange(num_rows - 40, num_rows)
    library("pair_distance", features, features, last.int(), last.flip(0).int())
    library("segment_mean", features, last, torch.tensor([0, 30, 40]))

    index = large("index", num_rows, k, dtype=torch.int32)
    index[-40:, :8] = num_rows - 40 + torch.randint(40, (40, 8))
    full, half = (library("mutual_neighbors", index, width, num_rows - 40, num_rows) for width in (8, 4))
    every = [pad(sets, (0, 0, num_rows - 40, 0), value=-1) for sets in (full, half)]
    distance, order, scale = large("distance", num_rows, k), torch.arange(num_rows).int(), torch.ones(num_rows)
    library("k_reciprocal", features, order, distance, index, *every, scale, num_rows - 40, num_rows)

    nnz = (1 << 31) + 40
    col, value = large("col", nnz, dtype=torch.int32), large("value", nnz)
    col[-40:], value[-40:] = torch.arange(40).int(), torch.rand(40)
    rowptr = torch.tensor([0, 1, nnz - 40, nnz - 20, nnz])
    neighbors = torch.tensor([[0, 2], [0, 3], [2, 3], [3, 2]]).int()
    library("expand_query", rowptr, col, value, neighbors, 40, 2, 0, 4)
