"""SGD under poly decay, the optimiser of all four papers."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from segkd.config import Schedule


def sgd(parameters: Iterable[torch.nn.Parameter], schedule: Schedule) -> torch.optim.SGD:
    """One parameter group for the student and its adapters; weight decay on everything (methods.md 2.1)."""
    return torch.optim.SGD(
        list(parameters), lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )


def poly(schedule: Schedule, step: int) -> float:
    """lr(t) = base * (1 - t/T)^power for the 0-based step t."""
    return schedule.lr * (1 - step / schedule.steps) ** schedule.power


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr
