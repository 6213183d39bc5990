"""FAKD, feature-augmented distillation: CWD or pixel-wise KD under infinitely many Gaussian feature augmentations.

FAKD paper, Eq. 4-8 and Theorem 1. No code was released: this is the theorem with its slips put right. The exponent's
sign is that of -log softmax (the paper prints s_i - s_k), sums over positions run over positions (Eq. 7 prints
classes), one lambda for all classes, variance over tau^2 (``var_power=2``; the paper's 1 by option), covariance of the
pixel's own label (``covariance_of="label"``; the class of the probability, as Eq. 8 prints, by option), classifier of
the student.
Class statistics: class_statistics.py. Both losses are the bound in cross-entropy form; no tensor of positions x positions or of
pixels x classes x classes is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkd.device import bincount
from segkd.fields import NotNegative, Positive
from segkd.losses.class_statistics import ClassStatistics
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term
from segkd.losses.precision import full_precision, with_gradient
from segkd.prediction import NetworkInfo, class_index, labels_to_grid
from segkd.registry import UserError, unknown

Classifier = tuple[Tensor, Tensor]
COVARIANCE_OF = ("label", "teacher_class")
# Largest half variance for which the product of exponentials loses nothing: what underflows then stays negligible.
SAFE_EXPONENT = {torch.float32: 60.0, torch.float64: 600.0}
CHUNK = 2**24  # elements of a block in the slow path
MIN_BLOCK = 64  # rows of a block in the fast path; at least C of them, so that the matrices are no larger than the rows


def ramp(step: int, total_steps: int, lam_max: float = 1.0) -> float:
    """lambda of a step (0-based): a rising half cosine from 0 to ``lam_max``, since early covariances are unstable."""
    return 0.5 * lam_max * (1 - math.cos(math.pi * step / total_steps))


@full_precision
def augmented_channelwise(
    feature: Tensor,
    classifier: Classifier,
    teacher_logits: Tensor,
    labels: Tensor,
    statistics: ClassStatistics,
    lam: float,
    temperature: float = 4.0,
    var_power: int = 2,
    scores: Tensor | None = None,
) -> Tensor:
    """Upper bound of CWD's cross-entropy under feature noise N(0, lam * covariance of the pixel's class); Theorem 1.

    ``feature`` (B, A, h, w) and ``classifier`` (weight (C, A), bias (C,)) of the student, both with gradient;
    ``teacher_logits`` (B, C, h, w); ``labels`` (B, H, W) or (B, h, w), ignored pixels have no noise. The pairwise sum
    separates: the noise of positions i and k is independent, so variances add and one log-sum-exp is enough.
    At ``lam=0``: `channelwise_kl` plus the teacher's entropy. ``scores`` (B, C, h, w): feature times classifier, where the
    network has computed it already.
    """
    rows = class_index(labels_to_grid(labels, feature.shape[-2:]).flatten(1), len(statistics.count))
    scores = student_scores(feature, classifier) if scores is None else scores.flatten(2)
    spread = variance_table(classifier[0], statistics) * (lam / (2 * temperature**var_power))
    table = spread.T
    total, gradient, pulls = _noisy_cross_entropy(scores, table, rows, teacher_logits.flatten(2), temperature)
    total = with_gradient(with_gradient(total, scores, gradient, temperature), table, pulls)
    return total * (temperature**2 / (scores.shape[0] * scores.shape[1]))


@torch.no_grad()
def _noisy_cross_entropy(scores: Tensor, table: Tensor, rows: Tensor, teacher: Tensor, temperature: float) -> tuple:
    """Sum over images and channels of LSE_k(s_k / T + v_k) - sum_i p_i (s_i / T - v_i), p the teacher's activation map.

    Scores (B, C, N), table (C, Y + 1) of v by label, rows (B, N) its columns. With it its gradients for scores, times T,
    and table (None where none is wanted).
    """
    spread = table.expand(len(rows), -1, -1).gather(2, rows[:, None].expand_as(scores))
    noisy, target = torch.add(spread, scores, alpha=1 / temperature), teacher / temperature
    for x in (noisy, target):
        x -= x.amax(-1, keepdim=True)
    gap = torch.sub(noisy, spread, alpha=2)
    target.exp_().div_(target.sum(-1, keepdim=True))
    mass = noisy.exp_().sum(-1, keepdim=True)
    total = mass.log().sum() - torch.dot(target.flatten(), gap.flatten())
    noisy /= mass
    members = scores.new_zeros(*rows.shape, table.shape[1]).scatter_(2, rows[:, :, None], 1.0)
    pulls = ((noisy + target) @ members).sum(0) if table.requires_grad else None
    return total, noisy.sub_(target), pulls


def student_scores(feature: Tensor, classifier: Classifier) -> Tensor:
    """The student's scores (B, C, N) = weight . feature + bias."""
    weight, bias = classifier
    feature = feature.flatten(2)
    return torch.baddbmm(bias[:, None], weight.expand(len(feature), -1, -1), feature)


def variance_table(weight: Tensor, statistics: ClassStatistics) -> Tensor:
    """Variance w_c' Sigma_y w_c of each score under the covariance of each label, (Y + 1, C); the last row, no label, is 0."""
    covariance = statistics.covariance.to(weight.dtype)
    table = ((weight @ covariance) * weight).sum(-1) if statistics.full else covariance @ weight.square().T
    return torch.cat([table, table.new_zeros(1, table.shape[1])])


@full_precision
def augmented_pixelwise(
    feature: Tensor,
    classifier: Classifier,
    teacher_logits: Tensor,
    labels: Tensor,
    statistics: ClassStatistics,
    lam: float,
    covariance_of: str = "label",
    scores: Tensor | None = None,
) -> Tensor:
    """Upper bound of the pixel-wise cross-entropy under feature noise; FAKD Eq. 8, mean over all pixels.

    Arguments as in `augmented_channelwise`. ``covariance_of="label"``: the covariance of the pixel's label, the true
    bound; "teacher_class": of the class that the probability belongs to, as printed. Ignored pixels have no noise.
    At ``lam=0``: `pixelwise_kl` plus the teacher's entropy.
    """
    if covariance_of not in COVARIANCE_OF:
        raise unknown("covariance_of", covariance_of, COVARIANCE_OF)
    labels = labels_to_grid(labels, feature.shape[-2:]).flatten()
    scores = student_scores(feature, classifier) if scores is None else scores.flatten(2)
    scores = scores.transpose(1, 2).flatten(0, 1)
    teacher = teacher_logits.flatten(2).softmax(1).transpose(1, 2).flatten(0, 1)
    group, tables = _noise_groups(labels, classifier[0], statistics, covariance_of)
    half = torch.cat([0.5 * lam * tables, torch.zeros_like(tables[:1])])
    if half.device.type != "cpu":  # no look at its size, which would wait: float64 is safe to ten times as far
        total = _bound_by_products(scores.double(), teacher.double(), half.double(), group).to(scores.dtype)
    elif bool(half.detach().max() <= SAFE_EXPONENT[half.dtype]):
        total = _bound_by_products(scores, teacher, half, group)
    else:
        total = sum(_bound_by_chunks(scores[group == g], teacher[group == g], half[g]) for g in group.unique().tolist())
    return total / len(scores)


def _noise_groups(
    labels: Tensor, weight: Tensor, statistics: ClassStatistics, covariance_of: str
) -> tuple[Tensor, Tensor]:
    """For each pixel (M,) the number of its table, and the tables (G, C, C) of the variances of the score gaps k - c.

    Number G stands for no noise.
    """
    tables = gap_variances(weight, statistics.covariance.to(weight.dtype))
    group = class_index(labels, len(tables))
    if covariance_of == "label":
        return group, tables
    own = torch.arange(len(tables), device=labels.device)
    return (group == len(tables)).long(), tables[own, own][None]


def gap_variances(weight: Tensor, covariance: Tensor) -> Tensor:
    """(w_k - w_c)' Sigma_y (w_k - w_c) as (Y, C, C), for covariances (Y, A) or (Y, A, A)."""
    spread = weight @ covariance if covariance.dim() == 3 else weight * covariance[:, None, :]
    products = spread @ weight.T
    own = products.diagonal(dim1=1, dim2=2)
    return own[:, None, :] + own[:, :, None] - 2 * products


def _bound_by_products(scores: Tensor, teacher: Tensor, half: Tensor, group: Tensor) -> Tensor:
    """Sum over rows and classes of p_c * (LSE_k(z_k + half[g, c, k]) - z_c); scores, teacher (M, C), half (G, C, C).

    The log-sum-exp is a matrix product of exponentials, each scaled by its largest. Rows of one group share a matrix, so
    they are laid out in blocks of equal length, all blocks in one batched product.
    """
    rows, kind = _blocks(group, len(half), max(MIN_BLOCK, scores.shape[1]))
    padding = (rows == len(scores))[:, :, None]
    rows = rows.clamp_max(len(scores) - 1)
    take = lambda x: x.index_select(0, rows.flatten()).view(*rows.shape, -1)  # noqa: E731
    scores, target = take(scores), take(teacher).masked_fill_(padding, 0)  # (blocks, rows, C)
    top, high = scores.detach().amax(2, keepdim=True), half.detach().amax(2)
    factors = (half - high[:, :, None]).exp()
    products = (scores - top).exp() @ factors[kind].transpose(1, 2)
    return (target * (products.log() + (high[kind][:, None] + top) - scores)).sum()


def _blocks(group: Tensor, groups: int, length: int) -> tuple[Tensor, Tensor]:
    """Row numbers in blocks (n, length) that each hold one group, M where a block is not full; and the groups (n,).

    On a GPU, which is not asked how many blocks there are, as many as there may be: the last ones are empty.
    """
    sizes = bincount(group, groups)
    count = (sizes + length - 1) // length
    number = int(count.sum()) if group.device.type == "cpu" else len(group) // length + groups
    block = torch.arange(number, device=group.device)
    kind = torch.searchsorted(count.cumsum(0), block, right=True).clamp_max(groups - 1)
    first = block - (count.cumsum(0) - count)[kind]  # block number in its group
    inside = first[:, None] * length + torch.arange(length, device=group.device)
    place = (sizes.cumsum(0) - sizes)[kind][:, None] + inside
    order = torch.cat([group.argsort(stable=True), group.new_full((1,), len(group))])
    return order[torch.where(inside < sizes[kind][:, None], place, len(group))], kind


def _bound_by_chunks(scores: Tensor, teacher: Tensor, half: Tensor) -> Tensor:
    """The same for the rows of one group, half (C, C), some classes c at a time: slower, but safe for any size of half."""
    width = max(1, CHUNK // max(1, scores.numel()))
    parts = [checkpoint(_chunk_bound, scores, block, use_reentrant=False) for block in half.split(width)]
    return (teacher * (torch.cat(parts, 1) - scores)).sum()


def _chunk_bound(scores: Tensor, half: Tensor) -> Tensor:
    """LSE_k(z_ik + half[c, k]) for some of the classes c."""
    return (scores[:, None, :] + half).logsumexp(-1)


@dataclass(frozen=True)
class FAKDPDHyper:
    """Hyper-parameters of FAKD on pixel-wise distillation."""

    weight: NotNegative = 1.0  # not stated in the paper: that of KD
    lam_max: NotNegative = 1.0  # FAKD Table 5, the best of 0.5, 1.0, 1.5, 2.5
    covariance: Literal["diagonal", "full"] = "diagonal"  # not stated; ISDA's choice for segmentation
    covariance_of: Literal["label", "teacher_class"] = "label"  # the true bound; Eq. 8 prints the class of p


@dataclass(frozen=True)
class FAKDCWDHyper:
    """Hyper-parameters of FAKD on channel-wise distillation."""

    weight: NotNegative = 3.0  # "same super parameters as CWD": CWD README, HWD code
    temperature: Positive = 4.0  # as CWD
    lam_max: NotNegative = 1.0  # FAKD Table 5, the best of 0.5, 1.0, 1.5, 2.5
    covariance: Literal["diagonal", "full"] = "diagonal"  # not stated; ISDA's choice for segmentation
    var_power: Literal[1, 2] = 2  # Var(x / tau) = Var(x) / tau^2; Eq. 6 and 7 print 1


class _FAKD(Term):
    """What both have in common: the class statistics of the student's features, updated before each loss."""

    official = None

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        if student.feature_channels is None:
            against = f" (teacher '{teacher.name}')" if teacher else ""
            raise UserError(
                f"{self.name}: student '{student.name}'{against} shows no feature before a linear classifier, "
                "which the augmentation needs: choose another student or method"
            )
        self.statistics = ClassStatistics(student.num_classes, student.feature_channels, self.hyper.covariance)
        return self.statistics

    def _arguments(self, context: Context) -> tuple:
        student = context.student
        if student.feature is None or student.classifier is None:
            raise UserError(f"{self.name}: the student shows no feature or no classifier: choose another student")
        self.statistics.update(student.feature.detach(), context.labels)
        lam = ramp(context.step, context.total_steps, self.hyper.lam_max)
        return student.feature, student.classifier, context.teacher_logits(), context.labels, self.statistics, lam


@METHODS.register("fakd_pd")
class FAKDPD(_FAKD):
    """Feature-augmented pixel-wise distillation."""

    Hyper = FAKDPDHyper
    per_image = True

    def loss(self, context: Context) -> dict[str, Tensor]:
        arguments, scores = self._arguments(context), context.student.logits
        value = augmented_pixelwise(*arguments, self.hyper.covariance_of, scores)
        return {self.name: self.hyper.weight * value}


@METHODS.register("fakd_cwd")
class FAKDCWD(_FAKD):
    """Feature-augmented channel-wise distillation."""

    Hyper = FAKDCWDHyper
    per_image = True

    def loss(self, context: Context) -> dict[str, Tensor]:
        arguments, scores = self._arguments(context), context.student.logits
        value = augmented_channelwise(*arguments, self.hyper.temperature, self.hyper.var_power, scores)
        return {self.name: self.hyper.weight * value}
