"""HWD, holistic weighted distillation (HWD paper, Eq. 4-8): CWD with one weight per image and channel.

Code read: zju-SWJ/HWD@7a27e72 losses/hwd_loss.py, train_hwd.py, README command. Known differences: the paper divides
the divergence by the class's pixel count plus one, the published Cityscapes command does not and uses mu = 1
(variant="official"); the code sums over positions where Eq. 5 takes the mean (it cancels in the standardisation); the
code has NaN where all divergences are equal, here the standardised value is then mu. Counts are taken on the grid.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.fields import NotNegative, Positive, That
from segkd.losses.context import Context
from segkd.losses.cwd import channelwise_kl
from segkd.losses.method import METHODS, Term
from segkd.losses.precision import full_precision
from segkd.metrics import pixel_counts
from segkd.prediction import class_index, labels_to_grid
from segkd.registry import unknown

COUNTS = {"n": lambda n: n, "sqrt": lambda n: n.sqrt(), "n2": lambda n: n * n, "none": torch.ones_like}
DIVERGENCES = ("mse", "l1", "smooth_l1", "kl")


@torch.no_grad()
@full_precision
def holistic_weights(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float = 4.0,
    mu: float = 0.0,
    sigma: float = 1.0,
    beta: float = 0.1,
    *,
    softmax_temperature: float | None = None,
    divergence: str = "mse",
    on_logits: bool = False,
    count: str = "n",
) -> Tensor:
    """Channel weights (B, C), summing to C in each image, without gradient; logits (B, C, h, w).

    ``labels`` (B, H, W) or (B, h, w): divides a channel's divergence by N_c + 1, the class's pixels on the grid
    (``count="n"``), by its root or square ("sqrt", "n2") or by nothing ("none", or labels=None). The divergences are
    standardised over the channels (unbiased deviation) to mean ``mu`` and deviation ``sigma``, then smoothed with
    ``beta`` in (0, 1), or by ``softmax_temperature`` instead (tau' of the ablation, HWD Fig. 6).
    ``divergence`` and ``on_logits`` are the flags of the released code.
    """
    values = channel_divergence(student_logits, teacher_logits, temperature, divergence, on_logits)
    if count not in COUNTS:
        raise unknown("count", count, COUNTS)
    if labels is not None:
        pixels = class_counts(labels_to_grid(labels, student_logits.shape[-2:]), values.shape[1])
        values = values / COUNTS[count](pixels.to(values.dtype) + 1)
    standard = mu + sigma * standardise(values)
    if softmax_temperature is None:
        standard = -torch.expm1(standard * math.log(beta)) / (1 - beta)  # (1 - beta^g) / (1 - beta), Eq. 7
    else:
        standard = standard / softmax_temperature
    return values.shape[1] * standard.softmax(1)


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float, divergence: str, on_logits: bool) -> Tensor:
    """How far apart the maps of each channel are (B, C): the mean over positions of Eq. 5, or one of its rivals."""
    if divergence not in DIVERGENCES:
        raise unknown("divergence", divergence, DIVERGENCES)
    student, teacher = student.flatten(2), teacher.flatten(2)
    if divergence == "kl":  # of distributions, so of the activation maps whatever on_logits says
        log_s, log_t = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
        return (log_t.exp() * (log_t - log_s)).mean(-1)
    if not on_logits:
        student, teacher = activation_maps(student, temperature), activation_maps(teacher, temperature)
    if divergence == "mse":
        return torch.linalg.vector_norm(student - teacher, dim=-1).square() / student.shape[-1]
    distance = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[divergence]
    return distance(student, teacher, reduction="none").mean(-1)


def activation_maps(scores: Tensor, temperature: float) -> Tensor:
    """Softmax over the positions of (B, C, N); in place on one copy, since new memory costs more than the arithmetic."""
    maps = scores / temperature
    maps = maps.sub_(maps.amax(-1, keepdim=True)).exp_()
    return maps.div_(maps.sum(-1, keepdim=True))


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each image (B, C), for labels (B, h, w)."""
    return pixel_counts(0, class_index(labels, num_classes), 1)[:, :num_classes, 0]


def standardise(values: Tensor) -> Tensor:
    """Values (B, C) less their mean, over their unbiased deviation, in each image; 0 where they are all equal or C = 1.

    Scaled by the largest value first: squares of tiny divergences would underflow. A spread that rounding could have
    made counts as none.
    """
    scaled = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    centred = scaled - scaled.mean(1, keepdim=True)
    deviation = (centred.square().sum(1, keepdim=True) / max(values.shape[1] - 1, 1)).sqrt()
    flat = deviation <= 8 * torch.finfo(values.dtype).eps
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, deviation))


@dataclass(frozen=True)
class HWDHyper:
    """Hyper-parameters of HWD."""

    weight: NotNegative = 3.0  # alpha: HWD paper section IV-A
    temperature: Positive = 4.0  # tau: HWD paper section IV-A
    mu: float = 0.0  # HWD paper section IV-C (ablations); README command 1.0
    sigma: Positive = 1.0  # HWD paper section IV-A (variance 1)
    beta: Annotated[float, That(lambda x: 0 < x < 1, "> 0 and < 1")] = 0.1  # HWD paper section IV-C; README command
    count: Literal["n", "sqrt", "n2", "none"] = "n"  # HWD paper section III-C.1 (N_c + 1); README command none
    divergence: Literal["mse", "l1", "smooth_l1", "kl"] = "mse"  # HWD Eq. 5; README command
    on_logits: bool = False  # HWD Eq. 5 compares activation maps; so does the README command
    softmax_temperature: Positive | None = None  # tau' of HWD Fig. 6; None = the smoothing of Eq. 7


@METHODS.register("hwd")
class HWD(Term):
    """Channel-wise distillation on logits with holistic weights."""

    Hyper = HWDHyper
    per_image = True
    official = {"mu": 1.0, "count": "none"}

    @property
    def label_free(self) -> bool:
        return self.hyper.count == "none"

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, student, teacher = self.hyper, context.student.logits, context.teacher_logits()
        options = {name: value for name, value in asdict(hyper).items() if name != "weight"}
        weights = holistic_weights(student, teacher, context.labels, **options)
        return {self.name: hyper.weight * channelwise_kl(student, teacher, hyper.temperature, weights)}
