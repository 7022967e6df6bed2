"""Copies to a device."""

from __future__ import annotations

import torch

from mlt.utils.transfer import send


def test_what_arrives_is_what_was_sent(device: torch.device) -> None:
    tensor = torch.arange(12).view(3, 4).t()
    sent = send(tensor, device)
    assert sent.device.type == device.type
    assert torch.equal(sent.cpu(), tensor)
    assert send(sent, device) is sent
