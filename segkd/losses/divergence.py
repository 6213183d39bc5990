"""The Kullback-Leibler divergence of two softmaxes, value and gradient in one pass: what KD, CWD and HWD have in common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def softmax_kl(
    student: Tensor, teacher: Tensor, dim: int, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Sum of KL(softmax(teacher / T) || softmax(student / T)), the softmaxes along ``dim``; a scalar.

    ``weights`` multiply the divergences; their shape is that of the scores with size 1 along ``dim``. Gradient for the
    student alone, made in the forward pass while its maps are in the cache: half the time of the plain formula.
    """
    return _SoftmaxKL.apply(student, teacher, dim, temperature, weights)


class _SoftmaxKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, dim: int, temperature: float, weights: Tensor | None) -> Tensor:
        student, teacher = (z if temperature == 1 else z / temperature for z in (student, teacher))
        student, teacher = student.log_softmax(dim), teacher.log_softmax(dim)
        target = teacher.exp()
        gap = teacher.sub_(student)
        gradient = student.exp_().sub_(target)
        if weights is not None:
            target, gradient = target.mul_(weights), gradient.mul_(weights)
        ctx.save_for_backward(gradient)
        ctx.temperature = temperature
        return torch.dot(target.flatten(), gap.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx, pull: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * (pull / ctx.temperature), None, None, None, None
