"""The one interface of memories: losses read, update writes, start_round begins a new clustering."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_moving(memory: Memory, momentum: float, rows_per_class: int | None) -> None:
    """Refuse numbers by which no vector can move, see `move_rows`.

    Args:
        memory: who asks, for the message.
        momentum: share of the old vector in its update, in [0, 1].
        rows_per_class: rows of one class that a batch has at most, >= 1; None = not known.

    Raises:
        ValueError: one of them is out of range.
    """
    name = type(memory).__name__
    if not 0 <= momentum <= 1:
        raise ValueError(f"{name}: MEMORY.PROTOTYPE_MOMENTUM must be in [0, 1], got {momentum}")
    if rows_per_class is not None and rows_per_class < 1:
        raise ValueError(f"{name}: rows_per_class (NUM_INSTANCE) must be >= 1, got {rows_per_class}")


class Memory(nn.Module):
    """Vectors to compare a batch with: buffers only, no gradient flows into them.

    `losses` changes nothing, so that a step which the optimizer skips leaves no trace; `update` comes after the step.
    Buffers named in `resized` get their number of rows from a clustering, and from the checkpoint when one is loaded.
    """

    resized: tuple[str, ...] = ()

    def losses(
        self, source: Tensor, source_targets: Tensor, target: Tensor, target_indices: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Losses of this process's rows, by name.

        Args:
            source: [A, C], with gradient; A may be 0.
            source_targets: int64 [A], source identities.
            target: [B, C], with gradient.
            target_indices: int64 [B], positions in the target set.
            labels: int64 [N], label of every target image in the driving group; -1 for an outlier.
        """
        raise NotImplementedError

    def update(
        self, source: Tensor, source_targets: Tensor, target: Tensor, target_indices: Tensor, labels: Tensor
    ) -> None:
        """Write a batch, in its order. Every process passes the rows of all, so that memories stay equal.

        Args:
            source: [A, C]; A may be 0.
            source_targets: int64 [A].
            target: [B, C].
            target_indices: int64 [B].
            labels: int64 [N], see `losses`.
        """
        raise NotImplementedError

    def start_round(self, labels: Tensor, embeddings: Tensor | None = None, source: Tensor | None = None) -> None:
        """Begin a new clustering; what is None stays as it is.

        Args:
            labels: int64 [N], -1 for an outlier.
            embeddings: [N, C], what was clustered, before it was normalised.
            source: [S, C], mean of each source identity.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Be as new: what is held is of another run's images."""
        raise NotImplementedError

    def target_features(self) -> Tensor:
        """Rows [N, C] of all target images, for methods that cluster the memory itself.

        Raises:
            ValueError: this memory does not hold them.
        """
        raise ValueError(
            f"{type(self).__name__} does not hold a row for every target image, so labels cannot be made from it; "
            "set MEMORY.NAME HybridMemory, or label from extracted features"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self.resized:
            here, saved = getattr(self, name), state_dict.get(prefix + name)
            if saved is not None and saved.shape[1:] == here.shape[1:]:
                setattr(self, name, here.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def move_rows(
    bank: Tensor,
    places: Tensor,
    rows: Tensor,
    momentum: float,
    counts: Tensor | None = None,
    repeats: int | None = None,
) -> None:
    """Row by row, in order: bank[place] <- unit vector of momentum * bank[place] + (1 - momentum) * row.

    Rows of different places move at once, and nothing waits for a GPU to tell how often a place repeats: turns for
    which no row is left change nothing.

    Args:
        bank: unit rows [M, C], changed in place.
        places: int64 [B], 0 .. M - 1; may repeat.
        rows: [B, C], normalised here.
        momentum: share of the old vector, in [0, 1].
        counts: bool [B], the rows that count; None = all. The place of the others may be -1.
        repeats: no place has more rows than this, of which fewer turns follow; None = not known.
    """
    counts = torch.ones_like(places, dtype=torch.bool) if counts is None else counts
    places, order = places.sort(stable=True)
    rows, counts = F.normalize(rows.to(bank.dtype))[order], counts[order]
    moving = bank[places]
    for turn in range(min(repeats or len(places), len(places))):
        ahead = len(places) - turn
        own = (places[turn:] == places[:ahead]) & counts[turn:]
        mixed = F.normalize(momentum * moving[:ahead] + (1 - momentum) * rows[turn:])
        moving[:ahead] = torch.where(own[:, None], mixed, moving[:ahead])
    written = torch.where(places < 0, places[-1:], places)  # those without a place write what the last one does
    bank[written] = moving[torch.searchsorted(places, written)]  # a place's first row has met all the others
