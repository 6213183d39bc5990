"""Formulas are computed in float32 or wider, whatever autocast is on around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a formula: tensors come in as float32 or wider (float64 stays float64) and autocast is off inside.

    Half precision overflows in sums over pixels and in exponentials, and autocast would run matrix products in it.
    """

    def widen(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(torch.promote_types(value.dtype, torch.float32))
        return type(value)(map(widen, value)) if type(value) in (tuple, list) else value

    @functools.wraps(function)
    def wide(*args: Any, **kwargs: Any) -> Any:
        device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*map(widen, args), **{key: widen(value) for key, value in kwargs.items()})

    return wide


@full_precision
def wide(module: nn.Module, tensor: Tensor) -> Tensor:
    """A small module of a method (adapter, generator, discriminator) applied without autocast."""
    return module(tensor)
