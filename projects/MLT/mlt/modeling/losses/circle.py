"""Circle loss over masked similarities: what the memory trains with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mlt.modeling.layers import full_precision

EXCLUDED = -1e30  # logit of an entry outside a set; finite, so that a row of nothing else has a gradient: zero


class CircleLoss(nn.Module):
    """Mean over anchors of softplus(LSE over positives + LSE over negatives) / divisor.

    With cosine s, positives enter with -gamma [1 + m - s]_+ (s - 1 + m), negatives with gamma [s + m]_+ (s - m); the
    brackets carry no gradient. An anchor that lacks either contributes 0. Source: Sun et al., CVPR 2020, eq. 6-8.

    Args:
        margin: m, in (0, 1).
        gamma: scale, > 0.
        divisor: the loss is divided by it, > 0.
    """

    def __init__(self, margin: float = 0.25, gamma: float = 128.0, divisor: float = 1.0) -> None:
        super().__init__()
        if not 0 < margin < 1:
            raise ValueError(f"CircleLoss: margin must be in (0, 1), got {margin}")
        if gamma <= 0 or divisor <= 0:
            raise ValueError(f"CircleLoss: gamma and divisor must be > 0, got {gamma} and {divisor}")
        self.margin = margin
        self.gamma = gamma
        self.divisor = divisor

    @full_precision
    def forward(
        self, similarity: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """The loss.

        Args:
            similarity: cosines [B, M].
            positives: bool [B, M].
            negatives: bool [B, M]; what is in neither set is ignored.
            weights: [B, M] > 0, factor of each pair in the two sums; None = 1.
        """
        if not similarity.numel():
            return 0.0 * similarity.sum()
        detached = similarity.detach()
        pull = -self.gamma * (1 + self.margin - detached).relu() * (similarity - 1 + self.margin)
        push = self.gamma * (detached + self.margin).relu() * (similarity - self.margin)
        if weights is not None:
            pull, push = pull + weights.log(), push + weights.log()
        pull = pull.masked_fill(~positives, EXCLUDED).logsumexp(1)
        push = push.masked_fill(~negatives, EXCLUDED).logsumexp(1)
        return F.softplus(pull + push).mean() / self.divisor
