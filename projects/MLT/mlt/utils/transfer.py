"""Copies to a device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. To a GPU it goes from page-locked memory: any other copy waits for all work before it.

    Args:
        tensor: on any device.
        device: where it is wanted.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
