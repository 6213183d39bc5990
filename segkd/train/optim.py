"""The optimiser, poly decay, the mean of weights: SGD as in all four papers, AdamW for the short CPU profiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.swa_utils import AveragedModel

from segkd.config import Schedule


def make_optimiser(parameters: Iterable[torch.nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """One parameter group for the student and its adapters; weight decay on everything (methods.md 2.1)."""
    common = {"lr": schedule.lr, "weight_decay": schedule.weight_decay, "fused": True}
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(list(parameters), momentum=schedule.momentum, **common)
    return torch.optim.AdamW(list(parameters), **common)


def poly(schedule: Schedule, step: int) -> float:
    """lr(t) = base * (1 - t/T)^power for the 0-based step t, times a linear rise over the warm-up."""
    rise = min(1.0, (step + 1) / max(1.0, schedule.warmup * schedule.steps))
    return schedule.lr * rise * (1 - step / schedule.steps) ** schedule.power


class Mean(AveragedModel):
    """The mean of a network's weights and buffers. How many it is of is known on the CPU: torch's own update waits for a GPU."""

    def __init__(self, model: torch.nn.Module):
        super().__init__(model, use_buffers=True)

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Take in the network as it is."""
        number, state = int(self.n_averaged), [(*m.parameters(), *m.buffers()) for m in (self.module, model)]
        for mean, value in zip(*state):
            mean.copy_(mean + (value - mean) / (number + 1) if number else value)
        self.n_averaged += 1
