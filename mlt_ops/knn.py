"""Exact k nearest neighbours by squared Euclidean distance, in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from mlt_ops._arguments import as_integer
from mlt_ops._inputs import (
    as_features,
    full_precision,
    memory_budget,
    products_per_call,
    rows_per_chunk,
)
from mlt_ops._search import Centred, half_unit, lower_bounds, measure, propose, propose_by_faiss
from mlt_ops.structures import MAX_ROWS, Neighbors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Backend = Literal["auto", "torch", "half", "faiss"]
_SPARE = 16  # candidates beyond k: more of them take time, with fewer more rows must be searched again
# On a GPU those have more first: bounds from float16 cannot tell frames of one video apart, and of rows that see all
# others few fit into memory at a time. A CPU is faster without.
_SPARE_AGAIN = {"cpu": 0, "cuda": 480}
# Targets and rows of a tile at most. Of larger ones more is computed twice, on the diagonal; smaller ones leave the
# CPU's matrix product less to do at a time, and would take a GPU longer to launch than to compute (reckoned).
_TILE = {"cpu": 1024, "cuda": 4096}
_AUTO: dict[str, Backend] = {"cpu": "torch", "cuda": "half"}


def knn(
    features: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    backend: Backend = "auto",
    max_memory: int | None = None,
    group: ProcessGroup | None = None,
    stats: dict[str, int] | None = None,
) -> Neighbors:
    """Find the k nearest rows of each query: exactly those, in the order, that an exhaustive float32 search finds.

    Matrix products propose k + 16 candidates by lower bounds, that is distances less their largest rounding error.
    Those of them that can be among the k nearest are measured as sums of squared differences in a fixed order of
    addition; a row whose k-th is not nearer than every bound left out is doubtful and searched again among all rows
    that its bounds admit, on a GPU among k + 480 first. So equal rows are at distance 0 exactly, d(a, b) is d(b, a),
    ties are true ties, and the result depends on neither `backend`, `max_memory`, `group` nor the number of threads;
    CPU and (not yet run on a GPU) CUDA give the same bits. Time O(Q N D), half of it if `queries` is None, since each
    product then serves two rows.

    Args:
        features: [N, D] rows to search, any floating dtype; computed in float32. Pass unit rows for d^2 = 2 - 2 cos.
        k: number of neighbours, 1..N.
        queries: [Q, D] rows to search for. None: the features themselves; each row is then its own first neighbour,
            also where an equal row has a lower index.
        backend: who proposes. "torch": products of tiles in float32. "half": in float16, on a GPU's tensor cores (not
            yet run on one; a CPU gains nothing), with wider bounds, so that more rows are doubtful, and half a copy of
            the features more. "faiss": its exact search (CPU only, slower). "auto": "torch" on a CPU; on a GPU "half",
            whose products are many times faster by the data sheets of all that are supported.
        max_memory: working memory in bytes, apart from the result, one copy of features and queries, and the candidates
            (8 bytes each); None: 1 GiB.
        group: processes that all pass the same arguments; each searches its share of the queries, all get the result.
        stats: is given "doubtful", the number of rows that were searched again, over all processes.

    Returns:
        Neighbors on the features' device, sorted by (distance, index). Not differentiable: inputs are detached.

    Raises:
        ValueError: malformed, non-finite or huge inputs, differing D or device, k out of range, too little memory, an
            unknown backend, arguments that differ among the processes.
        ModuleNotFoundError: backend "faiss" without faiss.
        RuntimeError: another process of the group has failed.
    """
    if group is None:
        rows, targets, k = _checked(features, queries, k, backend)
        found, doubtful = unchecked_knn(rows, targets, slice(0, len(targets)), k, backend, max_memory)
    else:
        from mlt_ops import _gather  # not every PyTorch has torch.distributed

        def check() -> tuple[Tensor, Tensor, int]:
            checked = _checked(features, queries, k, backend)
            _gather.check_on_device("knn", checked[0], group)
            return checked

        rows, targets, k = _gather.unless_one_fails("knn", check, _gather.device_of(features, group), group)
        contents = _gather.fingerprint(rows)
        asked = contents if targets is rows else _gather.fingerprint(targets)
        numbers = [*rows.shape, *targets.shape, k, contents, asked]
        _gather.check_same_everywhere("knn", numbers, rows.device, group)
        share = _gather.share_of_rank(len(targets), group)
        mine, mine_doubtful = _gather.unless_one_fails(
            "knn", lambda: unchecked_knn(rows, targets, share, k, backend, max_memory), rows.device, group
        )
        found = Neighbors(*(_gather.gather_rows(part, len(targets), group) for part in mine))
        doubtful = _gather.total(mine_doubtful, rows.device, group)
    if stats is not None:
        stats["doubtful"] = doubtful
    return found


def _checked(features: Tensor, queries: Tensor | None, k: int, backend: Backend) -> tuple[Tensor, Tensor, int]:
    """Rows, targets, which are the same tensor without queries, and k."""
    rows = as_features(features, "knn")
    targets = rows if queries is None else as_features(queries, "knn", "queries")
    k = as_integer(k, "knn", "k")
    if targets.shape[1] != rows.shape[1] or targets.device != rows.device:
        raise ValueError(
            f"knn: queries and features must share D and device, got D={targets.shape[1]} on {targets.device} "
            f"and D={rows.shape[1]} on {rows.device}."
        )
    if not 1 <= k <= len(rows):
        raise ValueError(f"knn: k must be between 1 and the number of features ({len(rows)}), got {k}.")
    if max(len(rows), len(targets)) > MAX_ROWS:
        raise ValueError(f"knn: at most {MAX_ROWS} rows, got {len(rows)} and {len(targets)} queries.")
    if backend not in (known := get_args(Backend)):
        raise ValueError(f"knn: backend must be one of {', '.join(known)}, got {backend!r}.")
    if backend == "faiss" and rows.is_cuda:
        raise ValueError(f"knn: backend 'faiss' searches on the CPU, but the features are on {rows.device}.")
    return rows, targets, k


def unchecked_knn(
    rows: Tensor, targets: Tensor, share: slice, k: int, backend: Backend, max_memory: int | None
) -> tuple[Neighbors, int]:
    """Neighbours of targets[share], and how many of them were searched again; see `knn`.

    Args:
        rows: [N, D] float32 to search.
        targets: [Q, D] float32; the same tensor as `rows`: each row comes first among its own neighbours.
        share: the targets to search for.
        k: 1..N.
        backend: see `knn`.
        max_memory: see `knn`.
    """
    backend = _AUTO[rows.device.type] if backend == "auto" else backend
    (num_rows, dim), width = rows.shape, min(k + _SPARE, len(rows))
    device, budget = rows.device, memory_budget(max_memory, "knn")
    side = min(_TILE[device.type], math.isqrt(budget // 16), math.isqrt(products_per_call(device) // max(dim, 1)))
    # A measured pair takes as long as a product of 16 pairs: its rows come from memory, not from a cache.
    chunk = rows_per_chunk(96 * width, max_memory, "knn", 16 * width * dim, device)
    chunk_again = rows_searched_again(num_rows, dim, max_memory, device)
    with full_precision(device):
        search = _Search(rows, targets, share, k)
        goals, space = search.in_half() if backend == "half" else (search.goals, search.space)
        if backend == "faiss":
            targets_per_call = rows_per_chunk(12 * width, max_memory, "knn", num_rows * dim, device)
            bounds, candidates = propose_by_faiss(goals, space, width, targets_per_call)
        else:
            bounds, candidates = propose(goals, space, width, side)
        spread = goals.spread + space.spread.max()
        again = search.settle_all(bounds, candidates, spread, chunk)
        num_doubtful, wide = len(again), k + _SPARE_AGAIN[device.type]
        del bounds, candidates
        if num_doubtful and width < wide <= num_rows // 2:  # else all rows are hardly more
            chunk = rows_per_chunk((96 + 8) * wide, max_memory, "knn", 16 * wide * dim, device)  # with the lists
            again = torch.cat(
                [search.settle_some(part, goals, space, spread, wide, side) for part in again.split(chunk)]
            )
        del goals, space
        for start in range(0, len(again), chunk_again):
            search.settle_again(again[start : start + chunk_again])
    return Neighbors(search.distance, search.index), num_doubtful


def rows_searched_again(num_rows: int, dim: int, max_memory: int | None, device: torch.device) -> int:
    """How many doubtful rows fit into memory at a time, if bounds admit every row; no other step wants more for one.

    Args:
        num_rows: N.
        dim: D.
        max_memory: see `knn`.
        device: where the rows are.

    Raises:
        ValueError: not one fits.
    """
    return rows_per_chunk(96 * num_rows, max_memory, "knn", 16 * num_rows * dim, device)


class _Search:
    """One process's targets, and what has been found for them.

    Args:
        rows: [N, D] to search.
        targets: [Q, D] of all processes; the same tensor as `rows`: each comes first among its own neighbours.
        share: this process's part of the targets.
        k: number of neighbours.
    """

    def __init__(self, rows: Tensor, targets: Tensor, share: slice, k: int) -> None:
        center = rows.mean(dim=0)
        self.rows, self.targets, self.k = rows, targets[share], k
        self.space = self.goals = Centred.of(rows, center)
        if len(self.targets) < len(targets) or targets is not rows:
            self.goals = Centred.of(self.targets, center)
        self.own: Tensor | None = None
        if targets is rows:
            self.own = torch.arange(share.start, share.stop, dtype=torch.int32, device=rows.device)
        self.distance = rows.new_empty(len(self.targets), k)
        self.index = torch.empty(len(self.targets), k, dtype=torch.int64, device=rows.device)

    def in_half(self) -> tuple[Centred, Centred]:
        """Targets and rows in float16; one object if they are one."""
        unit = half_unit(*{self.space.base, self.goals.base})  # looked through once if they are one
        space = self.space.half(unit)
        return space if self.goals is self.space else self.goals.half(unit), space

    def settle_all(self, bounds: Tensor, candidates: Tensor, spread: Tensor, chunk: int) -> Tensor:
        """Choose for all targets, some at a time; returns the doubtful ones.

        Args:
            bounds: [Q, C], see `_settle`.
            candidates: [Q, C]
            spread: [Q]
            chunk: targets at a time.
        """
        doubtful = [torch.zeros(0, dtype=torch.int64, device=bounds.device)]
        for start in range(0, len(bounds), chunk):
            some = slice(start, start + chunk)
            doubtful.append(self._settle(some, bounds[some], candidates[some], spread[some]) + start)
        return torch.cat(doubtful)

    def settle_some(
        self, which: Tensor, goals: Centred, space: Centred, spread: Tensor, width: int, side: int
    ) -> Tensor:
        """Choose for some targets among more candidates; returns the doubtful ones.

        Args:
            which: of the targets.
            goals: all targets.
            space: the rows.
            spread: [Q] of all targets, see `_settle`.
            width: candidates of each.
            side: see `propose`.
        """
        bounds, candidates = propose(goals.part(which), space, width, side)
        return which[self._settle(which, bounds, candidates, spread[which])]

    def _settle(self, part: slice | Tensor, bounds: Tensor, candidates: Tensor, spread: Tensor) -> Tensor:
        """Choose among equally many candidates; returns the places within the part of those who leave a doubt.

        Args:
            part: Q targets.
            bounds: [Q, C] lower bounds of the candidates' distances.
            candidates: [Q, C] int32 rows.
            spread: [Q] the distances are at most this much above their bounds.
        """
        reach = bounds.kthvalue(self.k, dim=1, keepdim=True).values + spread.unsqueeze(1)  # k rows are not farther
        self._choose(part, bounds, candidates, reach)
        if bounds.shape[1] == len(self.rows):
            return torch.zeros(0, dtype=torch.int64, device=bounds.device)
        # No other row is nearer than the largest bound. A row that is not among its own candidates leaves a doubt: all
        # bounds are at most its own, and so at most 0.
        return (self.distance[part, -1] >= bounds.amax(dim=1)).nonzero().squeeze(1)

    def settle_again(self, which: Tensor) -> None:
        """Choose among all rows whose bound is not above the k-th distance found so far."""
        bounds, reach = lower_bounds(self.goals.part(which), self.space), self.distance[which, -1:]
        most = int((bounds <= reach).sum(dim=1).max())
        bounds, candidates = bounds.topk(most, dim=1, largest=False, sorted=False)
        self._choose(which, bounds, candidates.int(), reach)

    def _choose(self, part: slice | Tensor, bounds: Tensor, candidates: Tensor, reach: Tensor) -> None:
        """Keep the nearest of the candidates [Q, C] whose bounds [Q, C] are within reach [Q, 1], at least k of each."""
        candidates, place = candidates.sort(dim=1)
        near = bounds.gather(1, place) <= reach
        query = torch.arange(len(near), dtype=torch.int32, device=near.device).repeat_interleave(near.sum(dim=1))
        exact = measure(self.targets[part], self.rows, query, candidates.masked_select(near))
        distance = torch.full_like(bounds, torch.inf).masked_scatter_(near, exact)
        key = distance if self.own is None else distance.masked_fill(candidates == self.own[part].unsqueeze(1), -1.0)
        nearest = key.sort(dim=1, stable=True).indices[:, : self.k]  # of equal ones the lower row comes first
        self.distance[part], self.index[part] = distance.gather(1, nearest), candidates.gather(1, nearest).long()
