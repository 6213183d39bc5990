"""What the processes of a distributed run share: sums of statistics, and the features that fill memory banks."""

from __future__ import annotations

import torch
from torch import Tensor


def _alone() -> bool:
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes of a distributed run; the tensor itself otherwise."""
    if not _alone():
        torch.distributed.all_reduce(tensor)
    return tensor


def gather_from_processes(tensor: Tensor) -> Tensor:
    """Tensors of equal shape of all processes, joined along the first dimension in order of rank; no gradient."""
    if _alone():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
