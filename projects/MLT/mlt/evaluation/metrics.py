"""mAP, mINP and CMC of the Market-1501 protocol, in memory that does not grow with queries x gallery."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlt.structures import UNKNOWN
from mlt_ops import Columns, count_closer, rerank_in_pieces

PRODUCT_CHUNK = 256  # queries in one matrix product; fixed, because another number may round differently


class QueryRanks(NamedTuple):
    """Results of each query.

    Args:
        ap: float64 [Q], average precision 0..1.
        inp: float64 [Q], number of matches / rank of the last one.
        first: int64 [Q], rank of the first match, from 1.
        valid: bool [Q], whether the query has a match at all; the other fields mean nothing where it has not.
    """

    ap: Tensor
    inp: Tensor
    first: Tensor
    valid: Tensor


@torch.no_grad()
def evaluate_features(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor,
    gallery_camids: Tensor,
    rerank: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Rank the gallery by Euclidean distance for every query and average, as FastReID reports it.

    Never holds Q x G: beside the features it needs 4 * PRODUCT_CHUNK * G bytes for distances, and little more (with
    re-ranking what `mlt_ops.rerank_in_pieces` needs). Equal features give equal results, on however many processes they
    were extracted.

    Args:
        query: [Q, D], unit rows as the papers have them.
        gallery: [G, D]
        query_pids: int64 [Q]
        gallery_pids: int64 [G]
        query_camids: int64 [Q], UNKNOWN where nobody knows.
        gallery_camids: int64 [G]
        rerank: options of `mlt_ops.rerank_in_pieces`, whose distances are ranked then; None: Euclidean ones.

    Returns:
        see `summarize`.

    Raises:
        ValueError: shapes do not fit, features are not finite, or no query has a match.
    """
    sides = (("query", query, query_pids, query_camids), ("gallery", gallery, gallery_pids, gallery_camids))
    for side, features, pids, camids in sides:
        if features.dim() != 2 or not len(features) == len(pids) == len(camids) or not len(features):
            raise ValueError(
                f"evaluate_features: {side} features {list(features.shape)} with {len(pids)} pids and {len(camids)} "
                "camids; wanted [N, D] with N of each, N >= 1"
            )
        if not all(math.isfinite(bound) for bound in features.aminmax()):
            raise ValueError(f"evaluate_features: {side} features hold NaN or infinity")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"evaluate_features: query features have {query.shape[1]} numbers, gallery {gallery.shape[1]}")
    pieces = _euclidean(query, gallery) if rerank is None else rerank_in_pieces(query, gallery, **rerank)
    identities = _Gallery(gallery_pids.to(gallery.device), gallery_camids.to(gallery.device))
    ranks = [_rank(distance, query_pids[rows], query_camids[rows], identities) for rows, distance in pieces]
    return summarize(QueryRanks(*(torch.cat(field) for field in zip(*ranks, strict=True))))


def _euclidean(query: Tensor, gallery: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some queries after others and what ranks the gallery for them: squared distances without |q|^2, in one buffer."""
    squares = _squared_norms(gallery)
    buffer = gallery.new_empty(min(PRODUCT_CHUNK, len(query)), len(gallery))
    for start in range(0, len(query), PRODUCT_CHUNK):
        features = query[start : start + PRODUCT_CHUNK].to(gallery)
        distance = torch.addmm(squares, features, gallery.t(), alpha=-2, out=buffer[: len(features)])
        yield slice(start, start + len(features)), distance


def _squared_norms(rows: Tensor) -> Tensor:
    squares = rows.new_empty(len(rows))
    for part, result in zip(rows.split(256), squares.split(256), strict=True):
        torch.linalg.vecdot(part, part, out=result)  # in place: small results between large products fragment memory
    return squares


@torch.no_grad()
def rank_queries(
    distance: Tensor, query_pids: Tensor, gallery_pids: Tensor, query_camids: Tensor, gallery_camids: Tensor
) -> QueryRanks:
    """Where each query finds its matches. Gallery images of the query's own pid *and* camera do not count.

    A camera that is UNKNOWN is never "the query's own". Nothing is sorted but the few matches: an item's place is the
    number of items before it, by distance and, when equal, by gallery index (`mlt_ops.count_closer`). Precision is
    taken at each match and averaged, without interpolation.

    Args:
        distance: [Q, G] float32, any monotone measure; float64 is rounded to it.
        query_pids: int64 [Q]
        gallery_pids: int64 [G]
        query_camids: int64 [Q]
        gallery_camids: int64 [G]

    Raises:
        ValueError: shapes do not fit.
    """
    wanted = [len(query_pids), len(gallery_pids)]
    if not list(distance.shape) == wanted == [len(query_camids), len(gallery_camids)]:
        raise ValueError(
            f"rank_queries: distance {list(distance.shape)} with pids {wanted} and camids "
            f"{[len(query_camids), len(gallery_camids)]} of queries and gallery; wanted [Q, G] of each"
        )
    identities = _Gallery(gallery_pids.to(distance.device), gallery_camids.to(distance.device))
    return _rank(distance, query_pids, query_camids, identities)


class _Gallery:
    """Who is on the gallery images, sorted once: the images of one identity are a run.

    Args:
        pids: int64 [G]
        camids: int64 [G]
    """

    def __init__(self, pids: Tensor, camids: Tensor) -> None:
        self.pids, self.image = pids.sort(stable=True)
        self.camids = camids

    def matches_and_own(self, pids: Tensor, camids: Tensor) -> tuple[Columns, Columns]:
        """Of each query: images of its identity from other cameras, and those from its own."""
        first = torch.searchsorted(self.pids, pids)
        size = (torch.searchsorted(self.pids, pids, right=True) - first).masked_fill_(pids == UNKNOWN, 0)
        query = torch.arange(len(pids), device=pids.device).repeat_interleave(size)
        shift = first - (size.cumsum(0) - size)  # from a place in the list of all to a place in the run
        image = self.image[torch.arange(len(query), device=pids.device) + shift[query]]
        own = (self.camids[image] == camids[query]) & (camids != UNKNOWN)[query]

        def chosen(which: Tensor) -> Columns:
            found = query[which].bincount(minlength=len(pids))
            return Columns(torch.nn.functional.pad(found.cumsum(0), (1, 0)), image[which])

        return chosen(~own), chosen(own)


def _rank(distance: Tensor, query_pids: Tensor, query_camids: Tensor, gallery: _Gallery) -> QueryRanks:
    ids = query_pids.to(distance.device), query_camids.to(distance.device)
    matches, own = gallery.matches_and_own(*ids)
    found, begin = matches.rowptr.diff(), matches.rowptr[:-1]
    query = torch.arange(len(found), device=found.device).repeat_interleave(found)
    row = query * distance.shape[1]  # sorts the matches of each query among themselves
    rank = (row + count_closer(distance, matches, excluded=own)).sort().values - row + 1
    nth = torch.arange(1, len(rank) + 1, device=rank.device) - begin[query]
    # 2-D, because then PyTorch adds in the order of ranks on CUDA too.
    total = torch.segment_reduce((nth.double() / rank)[:, None], "sum", offsets=matches.rowptr, axis=0, initial=0)
    rank = torch.nn.functional.pad(rank, (0, 1), value=1)  # what a last query without a match looks up
    return QueryRanks(total[:, 0] / found, found.double() / rank[matches.rowptr[1:] - 1], rank[begin], found > 0)


def summarize(ranks: QueryRanks) -> dict[str, float]:
    """Averages over the valid queries, in percent under FastReID's names.

    Args:
        ranks: results of each query.

    Returns:
        Rank-1, Rank-5, Rank-10, mAP, mINP, metric (mean of mAP and Rank-1, which chooses "best"), and `skipped`, the
        number of queries without a match, which are left out.

    Raises:
        ValueError: no query has a match.
    """
    ap, inp, first = ranks.ap[ranks.valid], ranks.inp[ranks.valid], ranks.first[ranks.valid]
    if not len(ap):
        raise ValueError(
            f"None of the {len(ranks.valid)} queries has a match in the gallery that another camera took: check the "
            "pids and camera ids of the test set"
        )
    results = {f"Rank-{k}": 100 * float((first <= k).double().mean()) for k in (1, 5, 10)}
    results["mAP"] = 100 * float(ap.mean())
    results["mINP"] = 100 * float(inp.mean())
    results["metric"] = (results["mAP"] + results["Rank-1"]) / 2
    results["skipped"] = float(len(ranks.valid) - len(ap))
    return results
