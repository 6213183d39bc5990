"""What the processes of one run have of a batch: sums over all of them, and the tensors of all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def alone() -> bool:
    """True unless this process is one of several that train a run together."""
    return not (distributed.is_available() and distributed.is_initialized())


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes of a run, in its place; the tensor itself where there is one process."""
    if not alone():
        distributed.all_reduce(tensor)
    return tensor


def count_over_processes(number: int, like: Tensor) -> int | Tensor:
    """The sum of a number over the processes of a run; float64 on the device of ``like`` where there are several."""
    return number if alone() else sum_over_processes(torch.full((), number, dtype=torch.float64, device=like.device))


@dataclass(frozen=True)
class Shard:
    """The images ``starts[rank]`` ... ``starts[rank + 1] - 1`` of a batch: what one process of a run has of it.

    ``starts``: the first image of every process and, behind them, the size of the batch. A loss term of a process is its
    part of the whole: terms and gradients, added up over the processes, are those of one process with the whole batch.
    """

    rank: int
    starts: tuple[int, ...]

    @property
    def world_size(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> slice:
        return slice(self.starts[self.rank], self.starts[self.rank + 1])

    @property
    def fraction(self) -> float:
        """So much of the batch's images."""
        return (self.rows.stop - self.rows.start) / self.starts[-1]

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, for a tensor whose first dimension counts this one's images; with gradient.

        For values that every process uses alike and of which each gives 1 / ``world_size`` of the loss (`Method.loss`):
        the gradient is then the same everywhere, so the own rows times the processes is their sum, and nothing is sent.
        """
        return _Gather.apply(tensor, self)

    def cut(self, tensor: Tensor) -> Tensor:
        """This process's rows of a tensor of the whole batch, or of several batches one after the other."""
        paths = tensor.unflatten(0, (-1, self.starts[-1]))
        return paths[:, self.rows].flatten(0, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        sizes = [end - begin for begin, end in zip(shard.starts, shard.starts[1:])]
        own = tensor.new_zeros(max(sizes), *tensor.shape[1:])  # all_gather wants one shape
        own[: len(tensor)] = tensor
        parts = [torch.empty_like(own) for _ in sizes]
        distributed.all_gather(parts, own)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    @once_differentiable
    def backward(ctx, pull: Tensor):
        return pull[ctx.shard.rows] * ctx.shard.world_size, None


class Gathered:
    """A prediction on a shard as one on the whole batch; a tensor is fetched when it is first asked for."""

    def __init__(self, prediction: Any, shard: Shard):
        self._prediction, self._shard = prediction, shard

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._prediction, name)
        if isinstance(value, Tensor):
            value = self._shard.gather(value)
        elif name == "stages":
            value = tuple(map(self._shard.gather, value))
        setattr(self, name, value)
        return value
