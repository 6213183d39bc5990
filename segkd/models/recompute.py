"""Gradient checkpointing: what a part computes inside is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(part: nn.Module, x: Any, function: Callable[[nn.Module, Any], Any] = lambda part, x: part(x)) -> Any:
    """``function(part, x)``, by default ``part(x)``; its inner values are forgotten and computed again when needed.

    Values, gradients and random draws are those of the plain pass, and batch norms average a batch once, not twice.
    """
    if not torch.is_grad_enabled():
        return function(part, x)
    contexts = lambda: (nullcontext(), statistics_kept(part))  # noqa: E731 - of the first pass, of the second
    return checkpoint(function, part, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def statistics_kept(part: nn.Module) -> Iterator[None]:
    """Inside, batch norms of ``part`` normalise as they would, but running statistics and counters keep their values.

    The batch's share in them is set to 0; to leave the statistics out would change what torch stores for the backward pass.
    """
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, counter
