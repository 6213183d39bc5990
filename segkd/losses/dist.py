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

from segkd.losses.method import METHODS, Context, Term, full_precision

EPS = 1e-8


@full_precision
def correlation_distance(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0, gamma: float = 1.0, softmax: bool = True
) -> Tensor:
    """beta * (1 - mean correlation of each pixel's classes) + gamma * (1 - mean correlation of each class's pixels).

    Logits (B, C, h, w); the pixels of a class are those of all images. ``softmax=False`` correlates the scores.
    """
    student, teacher = (z.softmax(1) if softmax else z for z in (student_logits, teacher_logits))
    inter, intra = correlation(student, teacher, (1,)), correlation(student, teacher, (0, 2, 3))
    return beta * (1 - inter.mean()) + gamma * (1 - intra.mean())


def correlation(first: Tensor, second: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pearson correlation over ``dims``; 0 where one of the two does not vary."""
    first, second = (x - x.mean(dims, keepdim=True) for x in (first, second))
    lengths = _length(first, dims) * _length(second, dims)
    return (first * second).sum(dims) / (lengths + EPS)


def _length(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Root of the sum of squares, without the infinite gradient of the root at zero."""
    energy = values.square().sum(dims)
    return torch.where(energy > 0, energy, 1.0).sqrt() * (energy > 0)


@dataclass(frozen=True)
class DISTHyper:
    """Hyper-parameters of DIST."""

    weight: float = 1.0  # DIST code, segmentation/train_kd.py
    beta: float = 1.0  # DIST code: between classes of a pixel
    gamma: float = 1.0  # DIST code: between pixels of a class
    aux_weight: float = 0.4  # DIST code: the same on the auxiliary heads, where both networks have one; 0 in HWD's
    softmax: bool = True  # DIST code; HWD's comparison without


@METHODS.register("dist")
class DIST(Term):
    """Correlation distance of main and auxiliary scores."""

    Hyper = DISTHyper

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, student, teacher = self.hyper, context.student, context.teacher
        distance = lambda s, t: correlation_distance(s, t, hyper.beta, hyper.gamma, hyper.softmax)  # noqa: E731
        losses = {self.name: hyper.weight * distance(student.logits, context.teacher_logits())}
        if hyper.aux_weight and student.aux_logits is not None and teacher.aux_logits is not None:
            aux = distance(student.aux_logits, context.on_student_grid(teacher.aux_logits))
            losses[f"{self.name}/aux"] = hyper.weight * hyper.aux_weight * aux
        return losses
