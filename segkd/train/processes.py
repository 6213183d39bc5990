"""One run trained by several processes, as torchrun starts them: who this one is, and what they do together.

Each computes its shard of every batch, forward and backward. Then all gradients are added up in one exchange, and every
process makes the same update. Loss terms are parts of a sum (`losses.distributed.Shard`), so nothing is averaged: shards
may differ in size, and whatever a method trains beside the network is right without a wrapper around each of its modules.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from segkd.data.sampler import shard
from segkd.losses.distributed import Shard, alone, sum_over_processes
from segkd.registry import UserError
from segkd.train.runtime import pick_device

PATIENCE = timedelta(hours=12)  # others wait while the first packs data or learns masks; torchrun itself sees deaths


def launched() -> bool:
    """True in a process that torchrun started."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Inside, this process trains together with the others that torchrun started; gives its device.

    One GPU for each process of a machine with NCCL, else the CPU with gloo. UserError: fewer GPUs than processes.
    """
    where = pick_device()
    if where.type == "cuda":
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise UserError(f"process {number} of this machine has no GPU of its own: give torchrun --nproc-per-node {there}")
        where = torch.device("cuda", number)
        torch.cuda.set_device(where)
    store, number, processes = _meeting_point()
    backend = "nccl" if where.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=PATIENCE)
    try:
        yield where
    finally:
        distributed.destroy_process_group()


def _meeting_point() -> tuple[distributed.Store, int, int]:
    """Where the processes find each other, this one's rank and how many there are.

    After a restart torchrun may hand out the store of the attempt before, and with it addresses of processes that are gone:
    each attempt gets keys of its own.
    """
    store, number, processes = next(distributed.rendezvous("env://", timeout=PATIENCE))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"attempt {attempt}", store), number, processes


def world_size() -> int:
    """How many processes train the run."""
    return 1 if alone() else distributed.get_world_size()


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if alone() else distributed.get_rank()


def is_first() -> bool:
    """True for the one process that writes."""
    return rank() == 0


def own_shard(batch_size: int) -> Shard | None:
    """What this process has of each batch, None for all of it; UserError for more processes than images."""
    if world_size() == 1:
        return None
    begins = [shard(batch_size, other, world_size())[0] for other in range(world_size())]
    return Shard(rank(), (*begins, batch_size))


def from_first(value: Any) -> Any:
    """The first process's ``value`` (tensors, numbers, strings and containers of them) in every process, on the CPU.

    A function is called, in the first process alone. The others wait.
    """
    if is_first():
        value = value() if callable(value) else value
    if world_size() == 1:
        return value
    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    data = _packed(value, device) if is_first() else torch.empty(0, dtype=torch.uint8, device=device)
    size = torch.tensor(len(data), device=device)
    distributed.broadcast(size, 0)
    data = data if is_first() else data.new_empty(int(size))
    distributed.broadcast(data, 0)
    return value if is_first() else torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


def _packed(value: Any, device: torch.device) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8).to(device)


def add_up(terms: dict[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Terms (scalars) and gradients summed over the processes, the gradients in their place; one exchange for each dtype."""
    gradients: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            gradients.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for group in gradients.values():
        total = sum_over_processes(torch.cat([gradient.flatten() for gradient in group]))
        for gradient, part in zip(group, total.split([gradient.numel() for gradient in group])):
            gradient.copy_(part.view(gradient.shape))
    values = torch.stack([value.detach().double() for value in terms.values()])
    return dict(zip(terms, sum_over_processes(values)))


def as_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values: of what each computed alike, but on GPUs perhaps not to the last bit."""
    for tensor in tensors if world_size() > 1 else ():
        distributed.broadcast(tensor.detach(), 0)
