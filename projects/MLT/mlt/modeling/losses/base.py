"""What a meta-architecture has to know of a loss."""

from __future__ import annotations

from torch import Tensor, nn

from mlt.utils import comm


class ReidLoss(nn.Module):
    """A loss over one field of HeadOutput.

    `key` is its name in the dict of losses; `reads` is the field it takes: "logits" (a loss over classes, given all
    classifiers) or a field [B, C] (a loss over pairs, which takes a pool to mine in as well).
    """

    key: str
    reads: str

    def over_processes(self, rows: Tensor, targets: Tensor) -> Tensor:
        """A loss over pairs, mined among the rows of all processes.

        Args:
            rows: [B, C], this process's.
            targets: int64 [B].
        """
        return self(rows, targets, comm.gather_with_grad(rows), comm.all_gather_rows(targets))
