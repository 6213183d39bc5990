"""DIST, distillation from a stronger teacher (Huang et al. 2022): correlations instead of divergences.

Code read: hunto/DIST_KD@2418f18 segmentation/losses/dist_kd.py, train_kd.py. The intra-class correlation runs over all
pixels of the local batch. Known differences: HWD's comparison correlates the logits without softmax and only those of
the main head (``softmax=False, aux_weight=0``); mmrazor's class does not flatten the pixels, which makes the
intra-class correlation one over images. The variants are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segkd.fields import NotNegative
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term
from segkd.losses.precision import full_precision, with_gradient

EPS = 1e-8


@full_precision
def correlation_distance(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0, gamma: float = 1.0, softmax: bool = True
) -> Tensor:
    """beta * (1 - mean correlation of each pixel's classes) + gamma * (1 - mean correlation of each class's pixels).

    Logits (B, C, h, w); the pixels of a class are those of all images. ``softmax=False`` correlates the scores.
    """
    return with_gradient(*_distance(student_logits, teacher_logits, beta, gamma, softmax))


@torch.no_grad()
def _distance(logits: Tensor, teacher: Tensor, beta: float, gamma: float, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The distance, the student's logits and the gradient for them."""
    student, teacher = (logits.softmax(1), teacher.softmax(1)) if softmax else (logits, teacher)
    inter, gradient = correlation(student, teacher, (1,))
    intra, other = correlation(student, teacher, (0, *range(2, student.dim())))
    gradient.mul_(-beta / inter.numel()).add_(other, alpha=-gamma / intra.numel())
    if softmax:
        gradient.sub_((student * gradient).sum(1, keepdim=True)).mul_(student)
    return beta * (1 - inter.mean()) + gamma * (1 - intra.mean()), logits, gradient


def correlation(first: Tensor, second: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Pearson correlation over ``dims``, 0 where one of the two does not vary, and the gradient of each for ``first``."""
    first, second = (x - x.mean(dims, keepdim=True) for x in (first, second))
    products = torch.empty_like(first)  # one for all three: new memory costs more than the arithmetic
    total = lambda x, y: torch.mul(x, y, out=products).sum(dims, keepdim=True)  # noqa: E731
    product, length, other = total(first, second), total(first, first).sqrt(), total(second, second).sqrt()
    scale = length * other + EPS
    own = (product / scale) * (other / scale) / length.clamp_min(torch.finfo(first.dtype).tiny)
    return product / scale, second.div_(scale).sub_(first.mul_(own))


@dataclass(frozen=True)
class DISTHyper:
    """Hyper-parameters of DIST."""

    weight: NotNegative = 1.0  # DIST code, segmentation/train_kd.py
    beta: NotNegative = 1.0  # DIST code: between classes of a pixel
    gamma: NotNegative = 1.0  # DIST code: between pixels of a class
    aux_weight: NotNegative = 0.4  # DIST code: the same on the auxiliary heads, where both networks have one; 0 in HWD's
    softmax: bool = True  # DIST code; HWD's comparison without


@METHODS.register("dist")
class DIST(Term):
    """Correlation distance of main and auxiliary scores."""

    Hyper = DISTHyper
    label_free = True
    needs_teacher_aux = True

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper = self.hyper
        distance = lambda s, t: correlation_distance(s, t, hyper.beta, hyper.gamma, hyper.softmax)  # noqa: E731
        return {f"{self.name}{end}": hyper.weight * part * distance(s, t) for end, part, s, t in context.heads(hyper.aux_weight)}
