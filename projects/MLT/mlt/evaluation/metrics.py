"""mAP, mINP and CMC of the Market-1501 protocol, in memory that does not grow with queries x gallery."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mlt.structures import UNKNOWN

PRODUCT_CHUNK = 256  # queries in one matrix product; fixed, because another number may round differently
RANK_CHUNK = 32  # queries ranked at a time
LAST = torch.iinfo(torch.int64).max  # order key of what does not count


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


def evaluate_features(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor,
    gallery_camids: Tensor,
) -> dict[str, float]:
    """Rank the gallery by Euclidean distance for every query and average, as FastReID reports it.

    Never holds Q x G: beside the features it needs G * (4 * PRODUCT_CHUNK + 30 * RANK_CHUNK) bytes. Equal features
    give equal results, on however many processes they were extracted.

    Args:
        query: [Q, D], unit rows as the papers have them.
        gallery: [G, D]
        query_pids: int64 [Q]
        gallery_pids: int64 [G]
        query_camids: int64 [Q], UNKNOWN where nobody knows.
        gallery_camids: int64 [G]

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
    squares = torch.cat([torch.linalg.vecdot(part, part) for part in gallery.split(1024)])
    chunks = zip(*(rows.split(PRODUCT_CHUNK) for rows in (query, query_pids, query_camids)), strict=True)

    def distance(features: Tensor) -> Tensor:  # without |q|^2, which is the same for the whole row
        return torch.addmm(squares, features.to(gallery), gallery.t(), alpha=-2)

    ranks = [rank_queries(distance(rows), pids, gallery_pids, camids, gallery_camids) for rows, pids, camids in chunks]
    return summarize(_concatenate(ranks))


def rank_queries(
    distance: Tensor, query_pids: Tensor, gallery_pids: Tensor, query_camids: Tensor, gallery_camids: Tensor
) -> QueryRanks:
    """Where each query finds its matches. Gallery images of the query's own pid *and* camera do not count.

    A camera that is UNKNOWN is never "the query's own". Nothing is sorted but the few matches: an item's place is the
    number of items before it, by distance and, when equal, by gallery index. Precision is taken at each match and
    averaged, without interpolation.

    Args:
        distance: [Q, G] float32, any monotone measure.
        query_pids: int64 [Q]
        gallery_pids: int64 [G]
        query_camids: int64 [Q]
        gallery_camids: int64 [G]
    """
    ids = [x.to(distance.device) for x in (query_pids, gallery_pids, query_camids, gallery_camids)]
    chunks = zip(distance.split(RANK_CHUNK), ids[0].split(RANK_CHUNK), ids[2].split(RANK_CHUNK), strict=True)
    return _concatenate([_rank_chunk(rows, pids, ids[1], camids, ids[3]) for rows, pids, camids in chunks])


def _concatenate(parts: list[QueryRanks]) -> QueryRanks:
    return QueryRanks(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _rank_chunk(
    distance: Tensor, query_pids: Tensor, gallery_pids: Tensor, query_camids: Tensor, gallery_camids: Tensor
) -> QueryRanks:
    num_queries = len(distance)
    same = (query_pids[:, None] == gallery_pids) & (query_pids != UNKNOWN)[:, None]
    own = same & (query_camids[:, None] == gallery_camids) & (query_camids != UNKNOWN)[:, None]
    same &= ~own
    keys = _order_keys(distance).masked_fill_(own, LAST)
    del own
    found = same.sum(dim=1)
    most = max(1, int(found.max()))
    row, column = same.nonzero(as_tuple=True)
    del same
    place = torch.arange(len(row), device=row.device) - (found.cumsum(0) - found)[row]
    hits = keys.new_full((num_queries, most), LAST)
    hits[row, place] = keys[row, column]
    hits = hits.sort(dim=1).values
    # bucket b holds the items between match b-1 and match b, match b itself included
    bucket = torch.searchsorted(hits, keys)
    bucket += torch.arange(num_queries, device=row.device)[:, None] * (most + 1)
    sizes = bucket.flatten().bincount(minlength=num_queries * (most + 1)).view(num_queries, most + 1)
    rank = sizes[:, :most].cumsum(dim=1)
    nth = torch.arange(1, most + 1, device=row.device)
    precision = torch.where(nth <= found[:, None], nth.double() / rank, 0.0)
    last = rank.gather(1, (found - 1).clamp(min=0)[:, None])[:, 0]
    total = precision.cumsum(dim=1)[:, -1]  # in the order of ranks, so that the zeros behind change no bit
    return QueryRanks(total / found, found.double() / last, rank[:, 0], found > 0)


def _order_keys(distance: Tensor) -> Tensor:
    """int64 [Q, G] that sort as (distance, gallery index) does, so that no two are equal."""
    bits = (distance.float() + 0.0).contiguous().view(torch.int32)  # + 0.0 makes -0.0 and 0.0 equal
    bits ^= (bits >> 31) & 0x7FFFFFFF  # the bits of negative floats sort backwards
    keys = bits.long()
    keys <<= 32
    keys |= torch.arange(keys.shape[1], device=keys.device)
    return keys


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
