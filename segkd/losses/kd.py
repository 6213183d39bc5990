"""KD, pixel-wise distillation of class probabilities (Hinton et al. 2015); "PD" in FAKD, the KD term of RDD and CIRKD.

Code read: winycg/CIRKD@2d8ad0f losses/kd.py, the same in the code of HWD, DIST and RDD. All grid points count, also
those whose label is ignore. Known differences: RDD's Eq. 2 prints KL(student || teacher), its code computes
KL(teacher || student) like everybody; the code of IFVD and CWD averages over B*C*h*w ("element_mean", weight 10); SKD's
takes the cross-entropy and sums over the batch ("batch_sum", weight 10). For KD itself the variants are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from segkd.fields import NotNegative, Positive
from segkd.losses.context import Context
from segkd.losses.divergence import softmax_kl
from segkd.losses.method import METHODS, Term
from segkd.losses.precision import full_precision
from segkd.registry import unknown

REDUCTIONS = ("pixel_mean", "element_mean", "batch_sum")


@full_precision
def pixelwise_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: str = "pixel_mean"
) -> Tensor:
    """T^2 times the mean over pixels of KL(teacher || student) between class distributions; logits (B, C, h, w).

    ``reduction``: "element_mean" divides by C as well; "batch_sum" is the cross-entropy instead (no teacher entropy),
    summed over the images and divided by h * w alone.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    images, classes, *grid = student_logits.shape
    positions = math.prod(grid)
    if reduction == "batch_sum":
        student, teacher = ((z / temperature).log_softmax(1) for z in (student_logits, teacher_logits))
        return -(temperature**2) * (teacher.exp() * student).sum() / positions
    count = images * positions * (classes if reduction == "element_mean" else 1)
    return softmax_kl(student_logits, teacher_logits, 1, temperature) * (temperature**2 / count)


@dataclass(frozen=True)
class KDHyper:
    """Hyper-parameters of KD."""

    weight: NotNegative = 1.0  # RDD Eq. 3; CIRKD scripts, lambda_kd
    temperature: Positive = 1.0  # RDD paper section 4.2, T = 1; CIRKD-v1 default
    # CIRKD-v1, HWD and RDD code average over pixels
    reduction: Literal["pixel_mean", "element_mean", "batch_sum"] = "pixel_mean"  # IFVD, CWD: elements; SKD: a sum


@METHODS.register("kd")
class KD(Term):
    """Pixel-wise distillation on the logits of the main head, before upsampling."""

    Hyper = KDHyper
    label_free = True

    @property
    def per_image(self) -> bool:
        return self.hyper.reduction != "batch_sum"

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper = self.hyper
        value = pixelwise_kl(context.student.logits, context.teacher_logits(), hyper.temperature, hyper.reduction)
        return {self.name: hyper.weight * value}
