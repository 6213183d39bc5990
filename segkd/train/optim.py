"""The optimiser and poly decay: SGD as in all four papers, AdamW for the short CPU profiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch

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


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr
