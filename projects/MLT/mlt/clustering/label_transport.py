"""Label transport: re-label by optimal transport between images and classes of equal (or given) mass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows at a time: on the CPU so few that their second reading in an iteration comes from the cache.
CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}
MODERATE = 1e50  # factors up to this leave entries of A below 1e-308 without weight in any sum
CHECK_PERIOD = 10  # iterations between two looks at the error, as in the published code


@dataclass(frozen=True)
class TransportResult:
    """What `label_transport` found.

    Args:
        labels: int64 [N] on the CPU, the class of each image.
        log_scale: [K], u: the plan is softmax_k(sharpness * logits + u) / N, so u is a bias that evens out the classes.
        iterations: Sinkhorn iterations done.
        error: summed relative change of the images' scaling in the last iteration that was looked at.
        converged: whether the error fell to the tolerance.
    """

    labels: Tensor
    log_scale: Tensor
    iterations: int
    error: float
    converged: bool


def label_transport(
    logits: Tensor,
    *,
    sharpness: float = 25.0,
    tolerance: float = 1e-2,
    max_iter: int = 1000,
    prior: Tensor | None = None,
) -> TransportResult:
    """Spread N images over K classes so that every class gets its share, changing as little as possible.

    Solves min_Q <Q, -log P> + KL(Q || r c^T) / sharpness with P = softmax(logits), column sums r (`prior`) and row sums
    c = 1/N by Sinkhorn's iteration, and labels each image with the largest entry of its row of Q:

        u_k = log r_k - logsumexp_i(M_ik + w_i),   w_i = -log N - logsumexp_k(M_ik + u_k),   M = sharpness * logits

    Runs on the device of `logits`, in float64 (an iteration is bound by memory, so that costs little on a GPU too).
    Needs one [N, K] float64 matrix beside the logits, which are left as they are.

    Args:
        logits: [N, K] with N >= K, finite; any softmax normaliser in them is without effect.
        sharpness: lambda > 0; the larger, the closer the plan is to a hard assignment.
        tolerance: stop when sum_i |w_i's relative change| falls to this; > 0.
        max_iter: largest number of iterations, >= 1.
        prior: [K] positive shares of the classes, summing to 1; None = 1/K each.

    Raises:
        ValueError: empty or non-finite logits, fewer images than classes, or an argument out of range.

    Source: Asano et al., "Self-labelling", ICLR 2020 (SeLa); Zheng et al., "Group-aware Label Transfer", CVPR 2021.
        Scalings absorbed into the kernel as in Schmitzer, "Stabilized Sparse Scaling Algorithms", SISC 2019, so that
        iterations are matrix-vector products and yet nothing under- or overflows.
    """
    logits = logits.detach()
    log_prior = _check(logits, sharpness, tolerance, max_iter, prior)
    kernel = _Kernel(logits, sharpness, log_prior)
    error = math.inf
    for iteration in range(max_iter):
        change = kernel.iterate()
        if iteration % CHECK_PERIOD == 0:
            error = float(change.sum())
            if error <= tolerance:
                break
    return TransportResult(kernel.labels().cpu(), kernel.log_scale(), iteration + 1, error, error <= tolerance)


def _check(logits: Tensor, sharpness: float, tolerance: float, max_iter: int, prior: Tensor | None) -> Tensor:
    """Refuse what cannot be transported; returns log r, float64 [K]."""
    if logits.dim() != 2 or logits.numel() == 0:
        raise ValueError(f"label_transport: logits must be [N, K] and not empty, got {list(logits.shape)}")
    num_images, num_classes = logits.shape
    if num_images < num_classes:
        raise ValueError(f"label_transport: {num_images} images cannot fill {num_classes} classes; use fewer clusters")
    if not all(math.isfinite(bound) for bound in logits.aminmax()):
        raise ValueError("label_transport: logits hold NaN or infinity; the network that gave them has diverged")
    if sharpness <= 0 or tolerance <= 0 or max_iter < 1:
        raise ValueError(
            "label_transport: wanted sharpness > 0, tolerance > 0 and max_iter >= 1, got "
            f"{sharpness}, {tolerance} and {max_iter}"
        )
    if prior is None:
        return torch.full((num_classes,), -math.log(num_classes), dtype=torch.float64, device=logits.device)
    if prior.shape != (num_classes,) or not bool((prior > 0).all()) or abs(float(prior.sum()) - 1) > 1e-4:
        raise ValueError(f"label_transport: prior must be {num_classes} positive shares that sum to 1, got {prior}")
    return prior.to(logits.device, torch.float64).log()


class _Kernel:
    """The scaled matrix A = exp(M + u + w) and the factors (columns, rows) by which the scaling has moved on since.

    Entries that underflow in A are below the rounding error of every sum as long as the factors are moderate. When a
    factor is not, `_absorb` moves the factors into u and w by one iteration in the log domain, which is exact but slow.
    """

    def __init__(self, logits: Tensor, sharpness: float, log_prior: Tensor) -> None:
        num_images, num_classes = logits.shape
        self.logits, self.sharpness, self.log_prior = logits, sharpness, log_prior
        self.matrix = log_prior.new_empty(num_images, num_classes)
        self.log_columns = torch.zeros_like(log_prior)  # u, absorbed part
        self.log_rows = log_prior.new_empty(num_images)  # w, absorbed part
        self.columns = torch.ones_like(log_prior)
        self.rows = torch.ones_like(self.log_rows)
        self.column_sums = torch.zeros_like(log_prior)  # of A * rows, for the next iteration; 0 = A is not filled yet
        self.chunk = max(1, CHUNK_BYTES[logits.device.type] // (8 * num_classes))
        # the published start: rows scaled by 1/N beside softmax(logits)^sharpness
        for part, rows in zip(logits.split(self.chunk), self.log_rows.split(self.chunk), strict=True):
            rows.copy_(torch.logsumexp(part.to(rows.dtype), dim=1).mul_(-sharpness).sub_(math.log(num_images)))

    def iterate(self) -> Tensor:
        """Scale the columns, then the rows; returns each row's relative change, [N]."""
        columns = self.log_prior.exp() / self.column_sums
        if not self._moderate(columns):
            return self._absorb()
        self.columns = columns
        column_sums, before = torch.zeros_like(columns), self.rows
        self.rows = torch.empty_like(before)
        for part, rows in zip(self.matrix.split(self.chunk), self.rows.split(self.chunk), strict=True):
            torch.mv(part, columns, out=rows).mul_(len(before)).reciprocal_()
            column_sums.addmv_(part.t(), rows)
        if not self._moderate(self.rows):
            self.rows = before
            return self._absorb()
        self.column_sums = column_sums
        return (before / self.rows - 1).abs_()

    def _moderate(self, factors: Tensor) -> bool:
        low, high = torch.stack(factors.aminmax()).tolist()  # one wait for a GPU
        return bool(low > 1 / MODERATE and high < MODERATE)

    def _absorb(self) -> Tensor:
        """The same iteration in the log domain, after which A holds the whole scaling."""
        before = self.log_rows + self.rows.log()
        parts = zip(self.logits.split(self.chunk), before.split(self.chunk), strict=True)
        sums = [torch.logsumexp(self._scaled(part) + rows[:, None], dim=0) for part, rows in parts]
        self.log_columns = self.log_prior - torch.logsumexp(torch.stack(sums), dim=0)
        for start, part in zip(range(0, len(before), self.chunk), self.logits.split(self.chunk), strict=True):
            here = slice(start, start + self.chunk)
            scores = self._scaled(part).add_(self.log_columns)
            self.log_rows[here] = -math.log(len(before)) - torch.logsumexp(scores, dim=1)
            torch.exp(scores.add_(self.log_rows[here, None]), out=self.matrix[here])
        self.columns.fill_(1)
        self.rows.fill_(1)
        self.column_sums = self.matrix.sum(dim=0)
        return torch.expm1(before - self.log_rows).abs_()

    def _scaled(self, part: Tensor) -> Tensor:
        return part.to(torch.float64) * self.sharpness

    def log_scale(self) -> Tensor:
        """u [K]: what is absorbed and what has come since."""
        return self.log_columns + self.columns.log()

    def labels(self) -> Tensor:
        """The class of each image, int64 [N]; ties go to the lowest class."""
        bias = self.log_scale()
        return torch.cat([(self._scaled(part) + bias).argmax(dim=1) for part in self.logits.split(self.chunk)])
