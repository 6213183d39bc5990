"""Tensors to and on a device without waiting for it: a GPU works while the CPU prepares what comes next."""

from __future__ import annotations

import torch
from torch import Tensor

GPU_BLOCK = 2**26  # numbers that a GPU works on at once, where a CPU takes what fits its cache: a gigabyte, with what is made of them


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small ``tensor`` on ``device``. From the CPU a GPU takes it from pinned memory: any other copy would wait for the GPU."""
    if tensor.device.type != "cpu":
        return tensor.to(device)
    tensor = tensor.contiguous()  # of an expanded one no page can be pinned
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def bincount(values: Tensor, bins: int) -> Tensor:
    """How often each of 0 ... ``bins`` - 1 is among ``values``, int64 (bins,). On a GPU `torch.bincount` waits for the largest."""
    values = values.flatten()
    return torch.bincount(values, minlength=bins) if values.device.type == "cpu" else torch.histc(values, bins, 0, bins)
