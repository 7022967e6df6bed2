"""What a meta-architecture has to know of a loss."""

from __future__ import annotations

from torch import nn


class ReidLoss(nn.Module):
    """A loss over one field of HeadOutput.

    `key` is its name in the dict of losses; `reads` is the field it takes: "logits" (a loss over classes, given all
    classifiers) or a field [B, C] (a loss over pairs, which takes a pool to mine in as well).
    """

    key: str
    reads: str
