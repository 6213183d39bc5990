"""KD, pixel-wise distillation of class probabilities (Hinton et al. 2015); "PD" in FAKD, the KD term of RDD and CIRKD.

Code read: winycg/CIRKD@2d8ad0f losses/kd.py, the same in the code of HWD, DIST and RDD. All grid points count, also
those whose label is ignore. Known differences: RDD's Eq. 2 prints KL(student || teacher), its code computes
KL(teacher || student) like everybody; IFVD and CWD average over B*C*h*w (10 / C of this loss at their weight 10); SKD
sums over the batch. With one source for the four papers, the variants are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segkd.losses.method import METHODS, Context, Term, full_precision, require


@full_precision
def pixelwise_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 times the mean over pixels of KL(teacher || student) between class distributions; logits (B, C, h, w)."""
    student = (student_logits / temperature).log_softmax(1)
    teacher = (teacher_logits / temperature).log_softmax(1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(1).mean()


@dataclass(frozen=True)
class KDHyper:
    """Hyper-parameters of KD."""

    weight: float = 1.0  # RDD Eq. 3; CIRKD scripts, lambda_kd
    temperature: float = 1.0  # RDD paper section 4.2, T = 1; CIRKD-v1 default

    def __post_init__(self):
        require(self.temperature > 0, f"kd: temperature must be above 0, got {self.temperature}")


@METHODS.register("kd")
class KD(Term):
    """Pixel-wise distillation on the logits of the main head, before upsampling."""

    Hyper = KDHyper

    def loss(self, context: Context) -> dict[str, Tensor]:
        value = pixelwise_kl(context.student.logits, context.teacher_logits(), self.hyper.temperature)
        return {self.name: self.hyper.weight * value}
