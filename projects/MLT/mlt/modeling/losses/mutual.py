"""Losses between two nets: what a meta-architecture with several nets has to know of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mlt.modeling.losses.base import ReidLoss


class MutualLoss(ReidLoss):
    """A loss over one field of a net's HeadOutput and the same field of a teacher's, which carries no gradient.

    `key` and `reads` as in ReidLoss. Meta-architectures with one net cannot use it.
    """

    def over_processes(self, rows: Tensor, targets: Tensor) -> Tensor:
        """There is no such loss without a teacher's rows.

        Args:
            rows: [B, C].
            targets: int64 [B].

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} compares a net with a teacher: call between_nets")

    def between_nets(self, rows: Any, teacher_rows: Any, targets: Tensor) -> Tensor:
        """The loss, over the rows of all processes where it is one over pairs.

        Args:
            rows: the field of this process's rows.
            teacher_rows: the teacher's field of the same images.
            targets: int64 [B].
        """
        raise NotImplementedError
