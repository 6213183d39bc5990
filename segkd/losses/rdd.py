"""RDD, relative difficulty distillation (RDD paper, Eq. 3-10): weights the task loss by how hard each pixel is.

Two stages. First TFE, the teacher alone: exp(-KL) between its two heads. Then TSE, teacher and student: pixels that
exactly one of them finds hard. The paper's RDD row is "kd+rdd". Code read: sunyueue/RDD@6aa347a
train_onlykd_two_stage_diff.py.

Differences of the code, all in variant="official": KL(aux || main), not KL(main || aux); confidence is the probability
of the true class, not the largest; at least a number of pixels is kept (here a fraction of the batch); the mean runs over
the selected pixels with Cityscapes' class weights; the auxiliary head has masks of its own. In the code's combinations
with AT, DSD and CIRKD the first stage multiplies two means, since its cross-entropy there ignores that it is asked for
pixels: ``tfe_map="mean"``, off in both variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from segkd.device import send
from segkd.fields import Fraction
from segkd.losses.context import Context, TaskWeight
from segkd.losses.cross_entropy import pixel_losses
from segkd.losses.method import METHODS, VARIANTS, TaskWeighting
from segkd.losses.precision import full_precision
from segkd.prediction import IGNORE, NetworkInfo, resize_scores
from segkd.registry import UserError, unknown

# The customary class weights of the 19 Cityscapes classes, as listed in RDD's training file.
CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)
MODES = {
    "xor": torch.logical_xor,
    "or": torch.logical_or,
    "and": torch.logical_and,
    "ohem": lambda student, teacher: student,
}


@torch.no_grad()
@full_precision
def teacher_difficulty(teacher_logits: Tensor, teacher_aux_logits: Tensor, variant: str = "paper") -> Tensor:
    """exp(-KL) between the teacher's heads, (B, h, w) in [0, 1], 1 = easy; logits (B, C, h, w). RDD Eq. 6 and 7.

    "paper": KL(main || aux); "official": KL(aux || main). Auxiliary scores on another grid, as beside a decoder, are
    brought to the main ones' (bilinear, corners aligned).
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    beside = resize_scores(teacher_aux_logits, teacher_logits.shape[-2:])
    main, aux = teacher_logits.log_softmax(1), beside.log_softmax(1)
    first, second = (main, aux) if variant == "paper" else (aux, main)
    divergence = (first.exp() * (first - second)).sum(1)
    return (-divergence.clamp_min(0)).exp()


@torch.no_grad()
@full_precision
def confidence(logits: Tensor, labels: Tensor, variant: str = "paper", align_corners: bool = True) -> Tensor:
    """How sure a network is, (B, H, W) in [0, 1] at label size; logits (B, C, h, w).

    "paper": the largest class probability; "official": that of the true class, 1 on ignored pixels. Never more than one
    image of scores at label size is held.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    sure = _true_class if variant == "official" else _largest
    return torch.cat([sure(*image, align_corners) for image in zip(logits.split(1), labels.split(1))])


def _true_class(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    return (-pixel_losses(logits, labels, align_corners)).exp()


def _largest(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """1 / sum of exp(score - largest score)."""
    scores = resize_scores(logits, labels.shape[-2:], align_corners)
    return (scores - scores.amax(1, keepdim=True)).exp_().sum(1).reciprocal_()


def hard_pixels(confidence: Tensor, threshold: float = 0.7, min_kept: int = 0) -> Tensor:
    """Where the confidence (B, H, W) is at most the threshold, or its ``min_kept``-th smallest value if larger."""
    if min_kept <= 0:
        return confidence <= threshold
    flat, place = confidence.flatten(), min(min_kept, confidence.numel())
    kept = flat.kthvalue(place).values if flat.device.type == "cpu" else flat.sort().values[place - 1]  # there by far the faster
    return confidence <= kept.clamp_min(threshold)


def difficulty_mask(student_hard: Tensor, teacher_hard: Tensor, mode: str = "xor") -> Tensor:
    """Pixels to learn from, bool: hard for exactly one ("xor"), for either, for both, or for the student ("ohem")."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    return MODES[mode](student_hard, teacher_hard)


@dataclass(frozen=True)
class RDDHyper:
    """Hyper-parameters of RDD."""

    threshold: Fraction = 0.7  # t: RDD paper section 4.2 and Table 7
    warmup: Fraction = 0.1  # of the steps, in the TFE stage: RDD Table 5, row d
    mode: Literal["xor", "or", "and", "ohem"] = "xor"  # RDD Eq. 9 and Table 6
    stage: Literal["both", "tfe", "tse"] = "both"  # RDD Table 5: rows a and b run one stage alone
    min_kept: Fraction = 0.0  # of the batch's pixels; none in the paper, 100000 of 4 x 512 x 1024 in the code
    difficulty: Literal["paper", "official"] = "paper"  # Eq. 6 KL(main || aux); the code KL(aux || main)
    confidence: Literal["paper", "official"] = "paper"  # Eq. 9 largest probability; the code that of the true class
    normaliser: Literal["pixels", "selected"] = "pixels"  # TSE mean, Eq. 10 over all pixels; the code over the selected
    class_weights: Literal["none", "cityscapes"] = "none"  # the code's; ones unless there are 19 classes
    aux_mask: Literal["main", "own"] = "main"  # Eq. 10 has one mask; the code one for each head
    tfe_map: Literal["pixels", "mean"] = "pixels"  # Eq. 8; "mean" is the code's when joined with AT, DSD or CIRKD


@METHODS.register("rdd")
class RDD(TaskWeighting):
    """Weights of the task loss: TFE for the first part of the steps (``step < warmup * total_steps``), then TSE."""

    Hyper = RDDHyper
    needs_teacher_aux = True
    official = {
        "min_kept": 100_000 / (4 * 512 * 1024),
        "difficulty": "official",
        "confidence": "official",
        "normaliser": "selected",
        "class_weights": "cityscapes",
        "aux_mask": "own",
    }

    @property
    def per_image(self) -> bool:
        return self.hyper.min_kept == 0 and self.hyper.tfe_map == "pixels"

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """No state; UserError where the teacher's auxiliary head is missing and the chosen stages need it."""
        own_masks = self.hyper.aux_mask == "own" and student.has_aux
        if (self.hyper.stage != "tse" or own_masks) and not teacher.has_aux:
            raise UserError(
                f"{self.name}: teacher '{teacher.name}' (of student '{student.name}') has no auxiliary head, which "
                "the difficulty needs: train the teacher with one, or set stage='tse' and aux_mask='main'"
            )
        return nn.Module()

    @torch.no_grad()
    def task_weight(self, context: Context) -> TaskWeight:
        early = context.step < self.hyper.warmup * context.total_steps
        tfe = self.hyper.stage == "tfe" or (self.hyper.stage == "both" and early)
        return self._tfe(context) if tfe else self._tse(context)

    def _tfe(self, context: Context) -> TaskWeight:
        """One map for both heads; the exponential first, then the upsampling."""
        teacher = context.teacher
        easy = teacher_difficulty(teacher.logits, teacher.aux_logits, self.hyper.difficulty)
        size, up = context.labels.shape[-2:], full_precision(resize_scores)
        easy = up(easy[:, None], size, context.align_corners)[:, 0]
        if self.hyper.tfe_map == "mean":  # mean of the map times the mean over valid pixels of the cross-entropy
            valid = context.labels != IGNORE
            easy = (easy.mean() * valid.numel() / valid.sum().clamp_min(1)).expand_as(easy)
        return TaskWeight(easy, None if context.student.aux_logits is None else easy, "pixels")

    def _tse(self, context: Context) -> TaskWeight:
        student, teacher = context.student, context.teacher
        main = aux = self._selected(context, student.logits, teacher.logits)
        if student.aux_logits is None:
            aux = None
        elif self.hyper.aux_mask == "own":
            aux = self._selected(context, student.aux_logits, teacher.aux_logits)
        return TaskWeight(main, aux, self.hyper.normaliser)

    def _selected(self, context: Context, student: Tensor, teacher: Tensor) -> Tensor:
        """The mask (B, H, W) as weights, times the class weights; 0 on ignored pixels."""
        hyper, labels = self.hyper, context.labels
        kept = round(hyper.min_kept * labels.numel())
        sure = [confidence(x, labels, hyper.confidence, context.align_corners) for x in (student, teacher)]
        hard = [hard_pixels(q, hyper.threshold, kept) for q in sure]
        mask = difficulty_mask(*hard, hyper.mode) & (labels != IGNORE)
        return mask * self._class_weights(student.shape[1], labels)

    def _class_weights(self, num_classes: int, labels: Tensor) -> Tensor:
        """The weight of each pixel's class (B, H, W)."""
        if self.hyper.class_weights == "none" or num_classes != len(CITYSCAPES_WEIGHTS):
            return torch.ones_like(labels, dtype=torch.get_default_dtype())
        table = send(torch.tensor(CITYSCAPES_WEIGHTS), labels.device)
        return table[labels.clamp(0, num_classes - 1)]
