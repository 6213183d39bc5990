"""FitNet, hints (Romero et al. 2015) on one layer: the student's head feature imitates the teacher's.

Code read: winycg/CIRKD@2d8ad0f losses/fitnet.py, the only source here; the variants are equal. Its rows add KD.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from segkd.fields import NotNegative
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision, wide
from segkd.prediction import NetworkInfo


@full_precision
def feature_mse(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean over all elements of the squared difference; features (B, A, h, w), the student's already adapted."""
    return F.mse_loss(student_feature, teacher_feature)


@dataclass(frozen=True)
class FitNetHyper:
    """Hyper-parameters of FitNet."""

    weight: NotNegative = 10.0  # CIRKD-v1 train_fitnet.sh


@METHODS.register("fitnet")
class FitNet(Term):
    """Mean squared error between head features, the student's behind a 1x1 convolution without bias."""

    Hyper = FitNetHyper
    per_image = label_free = True

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        self.adapter = nn.Conv2d(*feature_widths(self.name, student, teacher), kernel_size=1, bias=False)
        return self.adapter

    def loss(self, context: Context) -> dict[str, Tensor]:
        teacher = context.on_student_grid(context.teacher.feature)
        return {self.name: self.hyper.weight * feature_mse(wide(self.adapter, context.student.feature), teacher)}
