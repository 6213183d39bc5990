"""The Kullback-Leibler divergence of two softmaxes, value and gradient in one pass: what KD, CWD and HWD have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.losses.precision import with_gradient


def softmax_kl(
    student: Tensor, teacher: Tensor, dim: int, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Sum of KL(softmax(teacher / T) || softmax(student / T)), the softmaxes along ``dim``; a scalar.

    ``weights`` multiply the divergences; their shape is that of the scores with size 1 along ``dim``; they get no gradient.
    On a CPU that of the scores is made in the forward pass, while the maps are in the cache: half the time of the plain
    formula. A GPU takes that one: it has fewer kernels.
    """
    if student.device.type != "cpu":
        own, target = ((scores / temperature).log_softmax(dim) for scores in (student, teacher))
        divergence = F.kl_div(own, target, reduction="none", log_target=True)
        return (divergence if weights is None else divergence * weights).sum()
    value, pull, other = _softmax_kl(student, teacher, dim, temperature, weights)
    value = with_gradient(value, student, pull, temperature)
    return value if other is None else with_gradient(value, teacher, other, temperature)


@torch.no_grad()
def _softmax_kl(student: Tensor, teacher: Tensor, dim: int, temperature: float, weights: Tensor | None) -> tuple:
    """The sum, and its gradients for both scores over the temperature; None for a teacher that wants none."""
    both = teacher.requires_grad  # as in LAD's consistency
    student, teacher = student / temperature, teacher / temperature
    for scores in (student, teacher):  # in place from here: new memory costs more than the arithmetic
        scores -= scores.amax(dim, keepdim=True)
    gap = teacher - student
    mass, target_mass = (scores.exp_().sum(dim, keepdim=True) for scores in (student, teacher))
    teacher /= target_mass  # the teacher's maps
    gradient = student.div_(mass).sub_(teacher)
    offset = mass.log() - target_mass.log()
    other = None
    if both:  # p_t (log p_t - log p_s - KL)
        other = gap.sub((teacher * gap).sum(dim, keepdim=True)).mul_(teacher)
    if weights is not None:
        for x in filter(torch.is_tensor, (teacher, gradient, offset, other)):
            x *= weights
    return torch.dot(teacher.flatten(), gap.flatten()) + offset.sum(), gradient, other
