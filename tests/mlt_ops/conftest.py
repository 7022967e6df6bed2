"""What the tests of the sparse operators share: features with clusters in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def clustered() -> Callable[..., Tensor]:
    """Unit rows around a few centres; some rows are equal."""

    def make(num_rows: int, dim: int = 16, noise: float = 0.5, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(max(num_rows // 12, 1), dim, generator=generator)
        rows = centres[torch.randint(len(centres), (num_rows,), generator=generator)]
        rows = torch.nn.functional.normalize(rows + noise * torch.randn(num_rows, dim, generator=generator))
        rows[num_rows // 2 : num_rows // 2 + 3] = rows[: min(3, num_rows - num_rows // 2)]
        return rows

    return make
