"""A batch in parts, one after the other: the gradients of a batch that does not fit into memory at once."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from mlt.structures import Batch


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Batches of as many source rows and target rows as each other, in the order of the whole.

    Identities are blocks of rows, so a part has all images of its identities when the number of identities divides.

    Args:
        batch: see mlt.structures.
        num_parts: a divisor of the rows of each domain.

    Returns:
        num_parts batches; the batch itself for one.

    Raises:
        ValueError: the parts would differ in size.
    """
    if num_parts == 1:
        return [batch]
    sizes = batch["domains"].unique_consecutive(return_counts=True)[1].tolist()
    if any(size % num_parts for size in sizes):
        raise ValueError(
            f"SOLVER.ACCUMULATION {num_parts} does not divide the {' and '.join(map(str, sizes))} rows of a batch's "
            "domains into equal parts"
        )
    starts = [0, *accumulate(sizes)]
    shares = [size // num_parts for size in sizes]
    parts = [[slice(start + i * n, start + (i + 1) * n) for start, n in zip(starts, shares)] for i in range(num_parts)]
    return [{key: _rows(value, part) for key, value in batch.items()} for part in parts]


def _rows(value: Tensor | list[str], rows: list[slice]) -> Tensor | list[str]:
    """Ranges of rows: numbers of rows would have to go to where the images are, and the step would wait for that."""
    if isinstance(value, Tensor):
        return torch.cat([value[some] for some in rows])
    return [entry for some in rows for entry in value[some]]
