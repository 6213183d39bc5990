"""IFVD, intra-class feature variation (Wang et al. 2020): how far pixels lie from the prototype of their class.

Code read: YukangWang/IFVD@950a7a5 utils/criterion.py and winycg/CIRKD@2d8ad0f losses/ifvd.py, the same formula. Known
differences: IFVD's own weight is 200 (variant="official"), beside KD averaged over elements at 10 and a WGAN-GP term;
CIRKD, HWD and the rows that come from them use 20, beside KD 1 and a hinge term. Those terms are parts of their own
here: a CIRKD-style row is ``skd+ifvd`` with ``skd={"pair_weight": 0.0}``. The codes build a mask of feature size for
every class; here sums and scores of all classes are two matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkd.losses.method import METHODS, Context, Term, feature_widths, full_precision
from segkd.prediction import IGNORE, NetworkInfo, labels_to_grid

EPS = 1e-8  # of the cosine, as torch's


@full_precision
def intra_class_variation(
    student_feature: Tensor, teacher_feature: Tensor, labels: Tensor, num_classes: int, ignore_index: int = IGNORE
) -> Tensor:
    """Mean over all B * h * w positions of the squared gap between both networks' cosines to their class prototypes.

    Features (B, A, h, w), of any widths; ``labels`` (B, H, W) or (B, h, w). Prototypes are means over the pixels of a
    class in one image, with gradient. Ignored pixels contribute zero and stay in the mean.
    """
    labels = labels_to_grid(labels, student_feature.shape[-2:]).flatten(1)
    valid = (labels != ignore_index) & (labels >= 0) & (labels < num_classes)
    index = torch.where(valid, labels, 0)[:, None]
    members = torch.zeros(len(labels), num_classes, labels.shape[1], dtype=student_feature.dtype, device=labels.device)
    members.scatter_(1, index, valid[:, None].to(members.dtype))
    student, teacher = (prototype_cosine(f.flatten(2), members, index) for f in (student_feature, teacher_feature))
    return (valid[:, None] * (student - teacher)).square().mean()


def prototype_cosine(feature: Tensor, members: Tensor, index: Tensor) -> Tensor:
    """Cosine (B, 1, N) of each pixel of ``feature`` (B, A, N) with the mean of its class.

    ``members`` (B, C, N) is one where a pixel belongs to a class, ``index`` (B, 1, N) the class of each pixel.
    """
    prototypes = (members @ feature.transpose(1, 2)) / (members.sum(-1, keepdim=True) + 1e-6)  # (B, C, A)
    products = (prototypes @ feature).gather(1, index)
    lengths = _length(prototypes, 2).transpose(1, 2).gather(2, index) * _length(feature, 1)
    return products / lengths


def _length(vectors: Tensor, dim: int) -> Tensor:
    """Norms, not below EPS; their gradient is zero there."""
    return vectors.square().sum(dim, keepdim=True).clamp_min(EPS**2).sqrt()


@dataclass(frozen=True)
class IFVDHyper:
    """Hyper-parameters of IFVD."""

    weight: float = 20.0  # CIRKD-v1 train_ifvd.sh, HWD code; 200 in IFVD's own code


@METHODS.register("ifvd")
class IFVD(Term):
    """Intra-class feature variation of the head features."""

    Hyper = IFVDHyper
    official = {"weight": 200.0}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        feature_widths(self.name, student, teacher)
        return nn.Module()

    def loss(self, context: Context) -> dict[str, Tensor]:
        student, teacher = context.student, context.on_student_grid(context.teacher.feature)
        value = intra_class_variation(student.feature, teacher, context.labels, student.logits.shape[1])
        return {self.name: self.hyper.weight * value}
