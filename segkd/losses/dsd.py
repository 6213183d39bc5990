"""DSD, double similarity distillation (Feng et al. 2021): pixel-wise (PSD) and category-wise (CSD) similarity.

Code read: winycg/CIRKD@2d8ad0f losses/dsd.py, the reference (the authors' own code is not public); the variants are
equal. Known difference: that code takes maps by their place in a list, so that for a network without auxiliary head two
of the three maps are the same tensor, their difference is zero, and dividing by its norm wipes out the gradient of the
whole term. Here maps have names and such a pair is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch.nn.functional as F
from torch import Tensor, nn

from segkd.fields import NotNegative, Positive
from segkd.losses.at import attention_map
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision
from segkd.prediction import NetworkInfo

EPS = 1e-12


def pixel_similarity(student_maps: Sequence[Tensor | None], teacher_maps: Sequence[Tensor | None]) -> Tensor:
    """PSD: how attention changes from map to map, compared as unit vectors; mean over pairs, images and positions.

    Maps (B, A, h, w), shallow to deep, on one grid. A pair with a None, or of one tensor with itself, is left out; zero
    if no pair is left.
    """
    pairs = combinations(range(len(student_maps)), 2)
    pairs = [(m, n) for m, n in pairs if all(_distinct(maps[m], maps[n]) for maps in (student_maps, teacher_maps))]
    return _changes_apart(list(student_maps), list(teacher_maps), pairs)


@full_precision
def _changes_apart(student_maps: list, teacher_maps: list, pairs: list[tuple[int, int]]) -> Tensor:
    if not pairs:
        return sum(one.flatten()[:0].sum() for one in student_maps if one is not None)
    networks = student_maps, teacher_maps
    attention = [[None if one is None else attention_map(one) for one in maps] for maps in networks]
    student, teacher = ([_change(maps[m], maps[n]) for m, n in pairs] for maps in attention)
    return sum((s - t).square().mean() for s, t in zip(student, teacher)) / len(pairs)


def _distinct(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and first is not second


def _change(first: Tensor, second: Tensor) -> Tensor:
    """Unit vector (B, h * w) from one attention map to the next."""
    return F.normalize(second - first, dim=1, eps=EPS)


@full_precision
def category_similarity(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """CSD: mean over images and pairs of classes of the squared difference of the products of their activation maps.

    Logits (B, C, h, w) are averaged over 2x2 (ceil) and made a distribution over the positions of each class.
    """
    student, teacher = (_class_products(z, temperature) for z in (student_logits, teacher_logits))
    return (student - teacher).square().mean()


def _class_products(logits: Tensor, temperature: float) -> Tensor:
    # nothing is padded, so the flag changes no value; without it torch.compile gets the gradient at the border wrong (2.15)
    pooled = F.avg_pool2d(logits, 2, ceil_mode=True, count_include_pad=False).flatten(2)
    maps = (pooled / temperature).softmax(-1)
    return maps @ maps.transpose(1, 2)


@dataclass(frozen=True)
class DSDHyper:
    """Hyper-parameters of DSD; its rows have no KD term."""

    pixel_weight: NotNegative = 1000.0  # CIRKD-v1 train_dsd.sh
    category_weight: NotNegative = 10.0  # CIRKD-v1 train_dsd.sh
    temperature: Positive = 4.0  # CIRKD-v1 losses/dsd.py, of the category term


@METHODS.register("dsd")
class DSD(Term):
    """Similarity between auxiliary logits, head feature and logits, on the logits' grid, and between classes."""

    Hyper = DSDHyper
    per_image = label_free = True
    needs_teacher_aux = True

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        feature_widths(self.name, student, teacher)
        return nn.Module()

    def loss(self, context: Context) -> dict[str, Tensor]:
        student, teacher = context.student, context.teacher
        maps = [student.aux_logits, student.feature, student.logits]
        targets = [teacher.aux_logits, teacher.feature, teacher.logits]
        maps = [m if m is None or m.shape[-2:] == student.logits.shape[-2:] else context.on_student_grid(m) for m in maps]
        targets = [None if t is None else context.on_student_grid(t) for t in targets]
        pixel = pixel_similarity(maps, targets)
        category = category_similarity(student.logits, targets[-1], self.hyper.temperature)
        return {
            f"{self.name}/pixel": self.hyper.pixel_weight * pixel,
            f"{self.name}/category": self.hyper.category_weight * category,
        }
