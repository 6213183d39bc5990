"""CWD, channel-wise distillation (Shu et al. 2021): each channel is a distribution over the positions of one image.

Code read: irfanICMLL/TorchDistiller@78bac7c SemSeg-distill/utils/criterion.py, winycg/CIRKD@2d8ad0f losses/cwd.py,
zju-SWJ/HWD@7a27e72 losses/loss.py, skyshoumeng/Label_Assisted_Distillation@cd08406. Known differences: they (HWD's
CWD apart) take the log of the softmax, which overflows to inf on confident maps; here log-softmax. CIRKD divides the
feature term by the student's channels although it sums over the teacher's (variant="official"), which multiplies it by
2 or 4. The adapter of the authors' code has a BatchNorm and an activation behind it, CIRKD's has not: not here. The
authors' mmseg code uses temperature 1 and weight 5 (Cityscapes) or 10 (ADE20K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segkd.fields import NotNegative, Positive
from segkd.losses.context import Context
from segkd.losses.divergence import softmax_kl
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision, wide
from segkd.prediction import NetworkInfo


@full_precision
def channelwise_kl(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, channel_weights: Tensor | None = None
) -> Tensor:
    """tau^2 / (B * C) times the sum over images and channels of KL(teacher || student) over the h * w positions.

    ``student``, ``teacher`` (B, C, h, w): logits, or features of equal width; ``channel_weights`` (B, C) multiply the
    divergences (HWD Eq. 4). Source: HWD Eq. 2 and 3.
    """
    weights = None if channel_weights is None else channel_weights.to(student.dtype)[:, :, None]
    total = softmax_kl(student.flatten(2), teacher.flatten(2), 2, temperature, weights)
    return total * (temperature**2 / (student.shape[0] * student.shape[1]))


@dataclass(frozen=True)
class CWDHyper:
    """Hyper-parameters of CWD."""

    weight: NotNegative = 3.0  # on logits: LAD paper (beta), HWD code, CWD README
    temperature: Positive = 4.0  # tau: HWD paper section IV-A, CWD README
    feature_weight: NotNegative = 0.0  # 0 in LAD, HWD and FAKD; 50 in the "CWD" rows of CIRKD-style tables (CIRKD scripts)
    feature_divisor: Literal["teacher", "student"] = "teacher"  # the channels summed over; CIRKD's code the student's


@METHODS.register("cwd")
class CWD(Term):
    """Channel-wise distillation on logits and, if weighted, on the head features behind a 1x1 adapter."""

    Hyper = CWDHyper
    per_image = label_free = True
    official = {"feature_divisor": "student"}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The adapter of the feature term: a 1x1 convolution without bias, only where the widths differ (CIRKD)."""
        self.module = nn.Module()
        if not self.hyper.feature_weight:
            return self.module
        widths = feature_widths(f"{self.name} with feature_weight", student, teacher)
        same = widths[0] == widths[1]
        self.module.adapter = nn.Identity() if same else nn.Conv2d(*widths, kernel_size=1, bias=False)
        return self.module

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, student = self.hyper, context.student
        value = channelwise_kl(student.logits, context.teacher_logits(), hyper.temperature)
        losses = {self.name: hyper.weight * value}
        if hyper.feature_weight:
            adapted, teacher = wide(self.module.adapter, student.feature), context.on_student_grid(context.teacher.feature)
            value = channelwise_kl(adapted, teacher, hyper.temperature)
            if hyper.feature_divisor == "student":
                value = value * teacher.shape[1] / student.feature.shape[1]
            losses[f"{self.name}/feature"] = hyper.feature_weight * value
        return losses
