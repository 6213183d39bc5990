"""AT, attention transfer (Zagoruyko and Komodakis 2017): the energy of a feature map over the positions is imitated.

Code read: winycg/CIRKD@2d8ad0f losses/at.py (one map, the head feature; the reference, as RDD runs it, together with
KD) and szagoruyko/attention-transfer@893df54 utils.py (variant="official": the last three encoder stages added up,
weight 1000, no KD). RDD's Eq. 11 prints a norm that is not squared, with half of 1000 / (elements * batch) before it
(``squared=False``); its code squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.fields import NotNegative
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths, stage_widths
from segkd.losses.precision import full_precision
from segkd.prediction import NetworkInfo

STAGES = 3  # groups of the original


@full_precision
def attention_transfer(student_feature: Tensor, teacher_feature: Tensor, squared: bool = True) -> Tensor:
    """Mean over images and positions of the squared difference of the attention maps; features (B, A, h, w).

    ``squared=False``: half the sum over images of the norm of the difference, over images * positions (RDD Eq. 11).
    """
    gap = attention_map(student_feature) - attention_map(teacher_feature)
    if squared:
        return gap.square().mean()
    energy = gap.square().sum(1)
    norm = torch.where(energy > 0, energy, 1.0).sqrt() * (energy > 0)  # the root has no gradient at zero
    return 0.5 * norm.sum() / gap.numel()


def attention_map(feature: Tensor) -> Tensor:
    """Mean of the squares over the channels, as a unit vector over the positions of each image: (B, h * w)."""
    return F.normalize(feature.square().mean(1).flatten(1), dim=1, eps=1e-12)


@dataclass(frozen=True)
class ATHyper:
    """Hyper-parameters of AT."""

    weight: NotNegative = 10_000.0  # CIRKD-v1 and RDD scripts (train_at.sh); 1000 in AT's own code
    maps: Literal["feature", "stages"] = "feature"  # CIRKD-v1, RDD: the head feature; AT's own code: three stages
    squared: bool = True  # both codes; RDD Eq. 11 prints the plain norm


@METHODS.register("at")
class AT(Term):
    """Attention transfer on the head feature, or on the last three stages of the encoder."""

    Hyper = ATHyper
    per_image = label_free = True
    official = {"weight": 1000.0, "maps": "stages"}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """No state; UserError where a network lacks the maps."""
        if self.hyper.maps == "feature":
            feature_widths(self.name, student, teacher)
        else:
            stage_widths(self.name, student, teacher, "maps='feature'")
        return nn.Module()

    def loss(self, context: Context) -> dict[str, Tensor]:
        pairs = [(context.student.feature, context.teacher.feature)]
        if self.hyper.maps == "stages":
            pairs = zip(context.student.stages[-STAGES:], context.teacher.stages[-STAGES:])
        values = [attention_transfer(s, context.on_student_grid(t, s), self.hyper.squared) for s, t in pairs]
        return {self.name: self.hyper.weight * sum(values)}
