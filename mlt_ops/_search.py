"""The parts of the neighbour search: bounds from matrix products, the nearest of many tiles, exact distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlt_ops._library import has_cuda, has_extension

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_HALF = 2.0**-12  # about what rounding to float16 takes from a row, of its norm: the t that makes bounds tightest
_TINY = 2.0**-126  # the smallest normal float32: what is lost of a number below it, in one operation
# Of rows of which a part is worked on at a time, to save memory; small ones a GPU would take longer to launch.
_ELEMENTS_IN_PART = {"cpu": 1 << 21, "cuda": 1 << 24}
_LANES = 32  # partial sums of a distance, as in csrc/arithmetic.h
_PAIRS_IN_CACHE = 512  # pairs that the fallback measures at a time


class Centred(NamedTuple):
    """Rows minus a common point, which leaves distances but makes rounding errors small.

    Attributes:
        base: [N, D] the rows, times `unit`; float32, or float16 for products on tensor cores.
        norms: [N] squared norms.
        floors: [N] norms less their share of the largest rounding error: x's and y's, less 2 x.y, are a lower bound.
        unit: a power of two.
    """

    base: Tensor
    norms: Tensor
    floors: Tensor
    unit: float = 1.0

    @classmethod
    def of(cls, rows: Tensor, center: Tensor) -> Centred:
        """Centre rows [N, D] on a point [D]."""
        base = rows - center
        norms = squared_norms(base)
        dim = rows.shape[1]
        return cls(base, norms, norms * (1 - relative_error(dim)) - 4 * dim * _TINY)

    def half(self, unit: float) -> Centred:
        """The same rows in float16, with floors that allow for what rounding took away.

        With x = a + r and y = b + s, a and b being the rounded rows, x.y - a.b = x.s + r.b, and for each t > 0
        2 |x.y - a.b| <= t (|x|^2 + |y|^2) + (1 + 1 / t) (|r|^2 + |s|^2), of which each row pays its part.

        Args:
            unit: see `half_unit`.
        """
        rounded, lost = torch.empty_like(self.base, dtype=torch.float16), torch.empty_like(self.norms)
        for some in parts_of(self.base):
            rounded[some] = self.base[some] * unit
            lost[some] = (self.base[some] - rounded[some].float() / unit).square_().sum(dim=1)
        floors = self.floors - _HALF * self.norms - (1 + 1 / _HALF) * lost
        return Centred(rounded, self.norms, floors, unit)

    @property
    def spread(self) -> Tensor:
        """[N] Twice what the rows pay for errors: x's and y's, added to a lower bound, make an upper one."""
        return 2 * (self.norms - self.floors)

    def part(self, rows: slice | Tensor) -> Centred:
        """Some of the rows."""
        return Centred(self.base[rows], self.norms[rows], self.floors[rows], self.unit)


def parts_of(rows: Tensor) -> list[slice]:
    """Neighbouring rows, few enough that a copy of them takes 8 MB, on a GPU 64 MB.

    Args:
        rows: [N, D].
    """
    size = max(_ELEMENTS_IN_PART[rows.device.type] // max(rows.shape[1], 1), 1)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def squared_norms(rows: Tensor) -> Tensor:
    """[N] sums of squares, without a copy of all rows.

    Args:
        rows: [N, D] float32.
    """
    norms = rows.new_empty(len(rows))
    for some in parts_of(rows):
        norms[some] = rows[some].square().sum(dim=1)
    return norms


def half_unit(*rows: Tensor) -> float:
    """The power of two that brings the largest entry just below 2^15, so that few others are subnormal in float16.

    Between 2^-60 and 2^60: float32 must hold what undoes its square.

    Args:
        *rows: float32.
    """
    largest = max((float(torch.stack(part.aminmax()).abs().max()) for part in rows if part.numel()), default=0.0)
    return 2.0 ** min(max(15 - math.frexp(largest)[1], -60), 60)


def relative_error(dim: int) -> float:
    """Bound e: distances measured here and those from norms and products differ by at most e (|x|^2 + |y|^2).

    Two norms and twice a product, each a float32 sum of D terms in any order (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), make 2 D units of roundoff, the measured distance D / 16, subtracting the center
    and the last additions a few more: 4 D + 32 leaves a margin, also for tensor cores, which cut sums off instead of
    rounding them and so may lose D more.

    Args:
        dim: D.
    """
    return (4 * dim + 32) * _UNIT_ROUNDOFF


def products(left: Centred, right: Centred) -> Tensor:
    """[Q, N] products of all pairs of rows, summed in float32.

    Args:
        left: Q rows.
        right: N rows, in the same precision.
    """
    one, other = left.base, right.base.T
    if one.dtype == torch.float32:
        return torch.mm(one, other)
    if one.is_cuda:
        return torch.mm(one, other, out_dtype=torch.float32)
    return torch.mm(one.float(), other.float())  # the same numbers: products of float16 are exact in float32


def lower_bounds(left: Centred, right: Centred) -> Tensor:
    """[Q, N] numbers that no squared distance, as `measure` gives it, is below: products less their rounding error.

    Args:
        left: Q rows.
        right: N rows, in the same precision and unit.
    """
    return _bounds_of(products(left, right), left, right)


def _bounds_of(tile: Tensor, left: Centred, right: Centred) -> Tensor:
    """In the order of the operator `merge_nearest`."""
    return (tile * _alpha(left, right)).add_(right.floors).add_(left.floors.unsqueeze(1))


def _alpha(left: Centred, right: Centred) -> float:
    """What a product counts in a distance, in the rows' units."""
    return -2 / (left.unit * right.unit)


def product_distances(left: Centred, right: Centred) -> Tensor:
    """[Q, N] squared distances, up to rounding.

    Args:
        left: Q rows in float32.
        right: N rows in float32.
    """
    distance = torch.addmm(right.norms, left.base, right.base.T, alpha=-2)
    return distance.add_(left.norms.unsqueeze(1)).clamp_(min=0)


def propose(targets: Centred, rows: Centred, width: int, side: int) -> tuple[Tensor, Tensor]:
    """The rows of the `width` smallest lower bounds for each target, unsorted: bounds and int32 indices [Q, C].

    Args:
        targets: Q rows to search for. The same object as `rows`: each product serves both of its rows.
        rows: N rows to search.
        width: C, at most N.
        side: targets and rows of a tile.
    """
    itself = targets is rows
    tiles = [slice(start, start + side) for start in range(0, len(rows.norms), side)]
    parts = [rows.part(tile) for tile in tiles]
    bounds = targets.norms.new_full((len(targets.norms), width), torch.inf)
    index = torch.zeros_like(bounds, dtype=torch.int32)
    for i in range(0, len(bounds), side):
        left = targets.part(mine := slice(i, i + side))
        for theirs, right in zip(tiles, parts):
            if itself and theirs.start < i:
                continue
            tile = products(left, right)
            _merge(tile, left, right, theirs.start, False, bounds[mine], index[mine])
            if itself and theirs.start > i:
                _merge(tile, left, right, i, True, bounds[theirs], index[theirs])
    return bounds, index


def _merge(
    tile: Tensor, left: Centred, right: Centred, first: int, by_column: bool, bounds: Tensor, index: Tensor
) -> None:
    """Keep in `bounds` and `index` the smallest of what they hold and of the bounds in the tile's rows or columns."""
    if has_cuda(tile.device) if tile.is_cuda else has_extension():
        torch.ops.mlt_ops.merge_nearest(
            tile, left.floors, right.floors, _alpha(left, right), first, by_column, bounds, index
        )
        return
    values = _bounds_of(tile, left, right)
    values = values.T if by_column else values
    near = values.topk(min(bounds.shape[1], values.shape[1]), dim=1, largest=False, sorted=False)
    both = torch.cat([bounds, near.values], dim=1)
    kept = both.topk(bounds.shape[1], dim=1, largest=False, sorted=False)
    index.copy_(torch.cat([index, near.indices.int() + first], dim=1).gather(1, kept.indices))
    bounds.copy_(kept.values)


def propose_by_faiss(targets: Centred, rows: Centred, width: int, chunk: int) -> tuple[Tensor, Tensor]:
    """What `propose` gives, by faiss' exact search on the CPU.

    Args:
        targets: Q rows to search for.
        rows: N rows to search.
        width: C, at most N.
        chunk: targets of one call.
    """
    found, index = by_faiss(targets.base, rows.base, width, chunk)
    error = (targets.spread + rows.spread.max()) / 2
    return found - error.unsqueeze(1), index.int()


def by_faiss(targets: Tensor, rows: Tensor, width: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices [Q, C] of the nearest rows, up to rounding.

    Args:
        targets: [Q, D] float32 on the CPU.
        rows: [N, D] likewise.
        width: C, at most N.
        chunk: targets of one call.
    """
    import faiss  # an optional dependency

    faiss.omp_set_num_threads(torch.get_num_threads())
    parts = [faiss.knn(part.numpy(), rows.numpy(), width) for part in targets.split(chunk)]
    distance, index = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts))
    return distance, index


def measure(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Squared distances [P] of the pairs (queries[query], rows[row]) as sums of squared differences.

    The order of addition is fixed: the same bits on every device, at any number of threads, with and without extension.

    Args:
        queries: [Q, D] float32.
        rows: [N, D] float32.
        query: [P] int32.
        row: [P] int32.
    """
    if has_cuda(queries.device) if queries.is_cuda else has_extension():
        return torch.ops.mlt_ops.pair_distance(queries, rows, query, row)
    pairs = zip(query.split(_PAIRS_IN_CACHE), row.split(_PAIRS_IN_CACHE))
    return torch.cat([_measure_torch(queries[i], rows[j]) for i, j in pairs])


def _measure_torch(left: Tensor, right: Tensor) -> Tensor:
    """The operator's result without the extension: the same additions in the same order."""
    lanes = left.new_zeros(len(left), _LANES)
    for part in (left - right).square_().split(_LANES, dim=1):
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes.squeeze(1)


if has_extension():

    @torch.library.register_fake("mlt_ops::merge_nearest")
    def _fake_merge_nearest(
        products: Tensor,
        row_floors: Tensor,
        col_floors: Tensor,
        alpha: float,
        first: int,
        by_column: bool,
        distance: Tensor,
        index: Tensor,
    ) -> None:
        return None

    @torch.library.register_fake("mlt_ops::pair_distance")
    def _fake_pair_distance(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
        return queries.new_empty(query.shape[0])
