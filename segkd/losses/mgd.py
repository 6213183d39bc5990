"""MGD, masked generative distillation (Yang et al. 2022): restore the teacher's feature from a masked student feature.

Code read: yzd-v/MGD@2c9da0b seg/mmseg/distillation/losses/mgd.py and zju-SWJ/HWD@7a27e72. The loss is a sum over
channels and positions, so its weight depends on both. Known differences: MGD's own code works on the last encoder stage
(variant="official") and its published rows add CWD on logits (spec ``mgd+cwd``); HWD's comparison takes the head
feature and adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.device import send
from segkd.fields import Fraction, NotNegative
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths, stage_widths
from segkd.losses.precision import full_precision, wide
from segkd.prediction import NetworkInfo, Prediction


@full_precision
def masked_generation(
    student_feature: Tensor, teacher_feature: Tensor, generator: Callable[[Tensor], Tensor], mask: Tensor
) -> Tensor:
    """Squared difference between the generated and the teacher's feature: sum over channels and positions, over B.

    Features (B, A, h, w), the student's already aligned; ``mask`` (B, 1, h, w), 1 = keep.
    """
    return F.mse_loss(generator(student_feature * mask), teacher_feature, reduction="sum") / len(student_feature)


def random_mask(feature: Tensor, masked: float, generator: torch.Generator | None) -> Tensor:
    """One where a position is kept, with probability 1 - ``masked``: (B, 1, h, w)."""
    device = feature.device if generator is None else generator.device
    draws = torch.rand(len(feature), 1, *feature.shape[-2:], generator=generator, device=device)
    return send((draws >= masked).to(feature.dtype), feature.device)


@dataclass(frozen=True)
class MGDHyper:
    """Hyper-parameters of MGD."""

    weight: NotNegative = 2e-5  # alpha: MGD code configs/distillers/mgd, HWD code
    masked: Fraction = 0.75  # lambda, so many of the positions: MGD code configs/distillers/mgd, HWD code
    layer: Literal["feature", "stage"] = "feature"  # HWD code: the head feature; MGD's own: the last encoder stage


@METHODS.register("mgd")
class MGD(Term):
    """Masked generative distillation of one layer."""

    Hyper = MGDHyper
    label_free = True
    official = {"layer": "stage"}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The 1x1 alignment (only where widths differ) and the generator: two 3x3 convolutions with ReLU between."""
        narrow, full = self._widths(student, teacher)
        self.module = nn.Module()
        self.module.align = nn.Identity() if narrow == full else nn.Conv2d(narrow, full, 1)
        convolution = lambda: nn.Conv2d(full, full, 3, padding=1)  # noqa: E731
        self.module.generator = nn.Sequential(convolution(), nn.ReLU(), convolution())
        return self.module

    def _widths(self, student: NetworkInfo, teacher: NetworkInfo) -> tuple[int, int]:
        if self.hyper.layer == "feature":
            return feature_widths(self.name, student, teacher)
        return stage_widths(self.name, student, teacher, "layer='feature'")

    def _layer(self, prediction: Prediction) -> Tensor:
        return prediction.feature if self.hyper.layer == "feature" else prediction.stages[-1]

    def loss(self, context: Context) -> dict[str, Tensor]:
        student, teacher = self._layer(context.student), self._layer(context.teacher)
        aligned, target = wide(self.module.align, student), context.on_student_grid(teacher, student)
        mask = random_mask(aligned, self.hyper.masked, context.generator)
        return {self.name: self.hyper.weight * masked_generation(aligned, target, self.module.generator, mask)}
