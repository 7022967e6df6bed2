"""A gallery of one random image per identity, drawn several times: the protocol of sets without cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mlt.structures import ReidRecord, ReidSet

NUM_TRIALS = 10


def split_at_random(
    name: str, train: tuple[ReidRecord, ...], test: Sequence[ReidRecord], num_trials: int = NUM_TRIALS
) -> ReidSet:
    """A set whose results are means over several random galleries; all images outside a gallery are its queries.

    The draws are the same on every call, whatever the seed of a training, so that methods meet the same galleries.

    Args:
        name: of the set.
        train: training images.
        test: test images in a fixed order; none is fine.
        num_trials: galleries, >= 1.
    """
    drawn = set(_one_of_each([record.pid for record in test], seed=0))
    query = tuple(record for row, record in enumerate(test) if row not in drawn)
    gallery = tuple(record for row, record in enumerate(test) if row in drawn)
    pids = [record.pid for record in query + gallery]
    galleries = (tuple(range(len(query), len(pids))), *(_one_of_each(pids, seed) for seed in range(1, num_trials)))
    return ReidSet(name, train, query, gallery, random_galleries=galleries if pids else ())


def _one_of_each(pids: Sequence[int], seed: int) -> tuple[int, ...]:
    """Ascending positions, one of each pid."""
    order = torch.randperm(len(pids), generator=torch.Generator().manual_seed(seed)).numpy()
    _, first = np.unique(np.asarray(pids, dtype=np.int64)[order], return_index=True)
    return tuple(sorted(order[first].tolist()))
