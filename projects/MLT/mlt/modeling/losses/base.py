"""What a meta-architecture has to know of a loss."""

from __future__ import annotations

from torch import Tensor, nn

from mlt.modeling.heads import HeadOutput
from mlt.utils import comm


class ReidLoss(nn.Module):
    """A loss over one field of HeadOutput.

    `key` is its name in the dict of losses; `reads` is the field it takes: "logits" (a loss over classes, given all
    classifiers) or a field [B, C] (a loss over pairs, which takes a pool to mine in as well).
    """

    key: str
    reads: str

    def of(self, out: HeadOutput, labels: Tensor, group: int = 0) -> Tensor:
        """The loss of what a head returned.

        Args:
            out: of B rows, from G classifiers.
            labels: int64 [G, B], -1 where there is none.
            group: the row of `labels` that says which pairs belong together.
        """
        if self.reads == "logits":
            return self(out.logits, labels)
        return self.over_processes(getattr(out, self.reads), labels[group])

    def over_processes(self, rows: Tensor, targets: Tensor) -> Tensor:
        """A loss over pairs, mined among the rows of all processes.

        Args:
            rows: [B, C], this process's.
            targets: int64 [B].
        """
        return self(rows, targets, comm.gather_with_grad(rows), comm.all_gather_rows(targets))
