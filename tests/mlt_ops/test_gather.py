"""Rows shared among processes: what tells that they are the same ones."""

from __future__ import annotations

import pytest
import torch

from mlt_ops import _gather, _search


@pytest.mark.parametrize("row", [0, 1, 4, 5, 99])
def test_a_change_in_one_row_changes_the_fingerprint(
    row: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_search._ELEMENTS_IN_PART, device.type, 5 * 8)  # several parts of five rows
    rows = torch.rand(100, 8, generator=torch.Generator().manual_seed(0)).to(device)
    before = _gather.fingerprint(rows)
    assert 0 <= before < 2**52
    assert _gather.fingerprint(rows.clone()) == before
    rows[row, 3] = torch.nextafter(rows[row, 3], torch.tensor(2.0, device=device))
    assert _gather.fingerprint(rows) != before


def test_the_order_of_rows_is_part_of_the_fingerprint(device: torch.device) -> None:
    rows = torch.rand(100, 8, generator=torch.Generator().manual_seed(0)).to(device)
    assert _gather.fingerprint(rows.flip(0)) != _gather.fingerprint(rows)
