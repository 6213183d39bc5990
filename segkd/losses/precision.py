"""Formulas are computed in float32 or wider, whatever autocast is on around them; some make their gradient in the same pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def with_gradient(value: Tensor, x: Tensor, gradient: Tensor | None, divisor: float = 1.0) -> Tensor:
    """``value``, whose gradient for ``x`` is known: ``gradient / divisor``, None where none is wanted; it keeps what it has.

    For formulas that make it, under no_grad, while their maps are in the cache: about half the time of the plain formula.
    """
    return _WithGradient.apply(value, x, gradient, divisor)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, x: Tensor, gradient: Tensor | None, divisor: float) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.divisor = divisor
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, pull: Tensor):
        (gradient,) = ctx.saved_tensors
        return pull, None if gradient is None else gradient * (pull / ctx.divisor), None, None
