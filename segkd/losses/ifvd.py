"""IFVD, intra-class feature variation (Wang et al. 2020): how far pixels lie from the prototype of their class.

Code read: YukangWang/IFVD@950a7a5 utils/criterion.py and winycg/CIRKD@2d8ad0f losses/ifvd.py, the same formula. Known
differences: IFVD's own weight is 200 (variant="official"), beside KD averaged over elements at 10 and a WGAN-GP term;
CIRKD, HWD and the rows that come from them use 20, beside KD 1 and a hinge term. Those terms are parts of their own
here: a CIRKD-style row is ``skd+ifvd`` with ``skd={"pair_weight": 0.0}``. The codes build a mask of feature size for
every class; here sums and scores of all classes are a few matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkd.fields import NotNegative
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision, with_gradient
from segkd.prediction import NetworkInfo, class_index, labels_to_grid

EPS = 1e-8  # of the cosine, as torch's


@full_precision
def intra_class_variation(student_feature: Tensor, teacher_feature: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean over all B * h * w positions of the squared gap between both networks' cosines to their class prototypes.

    Features (B, A, h, w), of any widths; ``labels`` (B, H, W) or (B, h, w). Prototypes are means over the pixels of a
    class in one image, with gradient. Ignored pixels contribute zero and stay in the mean.
    """
    labels = labels_to_grid(labels, student_feature.shape[-2:]).flatten(1)
    index = class_index(labels, num_classes)[:, None]
    members = student_feature.new_zeros(len(labels), num_classes + 1, labels.shape[1]).scatter_(1, index, 1.0)
    members, valid, index = members[:, :-1], index < num_classes, index.clamp_max(num_classes - 1)
    target, _ = prototype_cosine(teacher_feature.flatten(2), members, index)
    return with_gradient(*_variation(student_feature.flatten(2), members, index, target, valid))


@torch.no_grad()
def _variation(feature: Tensor, members: Tensor, index: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of (cosine - target)^2 over valid pixels, the feature and the gradient for it."""
    cosine, parts = prototype_cosine(feature, members, index)
    gap = torch.where(valid, cosine - target, 0)
    gradient = _cosine_gradient(feature, members, cosine, gap * (2 / gap.numel()), *parts)
    return gap.square().mean(), feature, gradient


def prototype_cosine(feature: Tensor, members: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Cosine (B, 1, N) of each pixel of ``feature`` (B, A, N) with the mean of its class.

    ``members`` (B, C, N) is one where a pixel belongs to a class, ``index`` (B, 1, N) the class of each pixel. With it the
    parts that the gradient needs: prototypes (B, C, A), their lengths, the lengths of the pixels, the class sizes.
    """
    size = members.sum(-1, keepdim=True) + 1e-6
    prototypes = (members @ feature.transpose(1, 2)) / size
    lengths, own = (x.square().sum(d, keepdim=True).sqrt() for x, d in ((prototypes, 2), (feature, 1)))
    products = (prototypes @ feature).gather(1, index)
    cosine = products / (lengths.clamp_min(EPS).transpose(1, 2).gather(2, index) * own.clamp_min(EPS))
    return cosine, (prototypes, lengths, own, size)


def _cosine_gradient(
    feature: Tensor, members: Tensor, cosine: Tensor, pull: Tensor, prototypes: Tensor, lengths: Tensor, own: Tensor, size: Tensor
) -> Tensor:
    """Gradient (B, A, N) of sum(pull * cosine): through the pixel itself, and through the prototype of its class.

    d cos / d f = m / (|m| |f|) - cos f / |f|^2, and the same with f and m exchanged; m is the mean over its class. A length
    below EPS counts as the constant EPS.
    """
    part = pull / own.clamp_min(EPS)
    directions = prototypes / lengths.clamp_min(EPS)
    weighted = members * part
    own_part = (members @ (pull * cosine).transpose(1, 2)) * (lengths > EPS)  # (B, C, 1)
    means = (weighted @ feature.transpose(1, 2) - own_part * directions) / lengths.clamp_min(EPS) / size
    gradient = torch.bmm(directions.transpose(1, 2), weighted).baddbmm_(means.transpose(1, 2), members)
    return gradient.addcmul_(feature, -part * cosine / own.clamp_min(EPS) * (own > EPS))


@dataclass(frozen=True)
class IFVDHyper:
    """Hyper-parameters of IFVD."""

    weight: NotNegative = 20.0  # CIRKD-v1 train_ifvd.sh, HWD code; 200 in IFVD's own code


@METHODS.register("ifvd")
class IFVD(Term):
    """Intra-class feature variation of the head features."""

    Hyper = IFVDHyper
    per_image = True
    official = {"weight": 200.0}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        feature_widths(self.name, student, teacher)
        return nn.Module()

    def loss(self, context: Context) -> dict[str, Tensor]:
        student, teacher = context.student, context.on_student_grid(context.teacher.feature)
        value = intra_class_variation(student.feature, teacher, context.labels, student.logits.shape[1])
        return {self.name: self.hyper.weight * value}
