"""What a method is given: a training step, checked once, and what may be used before the first one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segkd.losses.distributed import Gathered, Shard
from segkd.losses.precision import full_precision
from segkd.prediction import IGNORE, Prediction, resize_scores
from segkd.registry import UserError


@dataclass
class Context:
    """One training step as a method sees it; UserError where labels or batches are not what they must be.

    ``step`` counts from 0 to ``total_steps - 1``; ``images`` (B, 3, H, W) in [0, 1]; ``labels`` (B, H, W) or (B, 1, H, W)
    of any integer type, 255 = ignore, kept as int64 (B, H, W); ``generator`` is the step's own source of random numbers;
    ``align_corners`` the student's resizing. ``shard``: where several processes train the run, what of the batch is here;
    None: all of it. ``checked``: all is known to be as it must be; to look waits for a GPU.
    """

    step: int
    total_steps: int
    images: Tensor
    labels: Tensor
    student: Prediction
    teacher: Prediction | None = None
    generator: torch.Generator | None = None
    align_corners: bool = True
    shard: Shard | None = None
    checked: bool = False

    def __post_init__(self):
        if not self.checked:
            self.labels = class_labels(self.labels)
            self._check()
            if self.teacher is not None and self.teacher.logits.is_inference():
                self.teacher = self.teacher.detach()
            self.checked = True

    def _check(self) -> None:
        count, classes = self.student.logits.shape[:2]
        for what, found in (("images", self.images), ("labels", self.labels)):
            if len(found) != count:
                raise UserError(f"{what} of a batch of {len(found)}, but the student predicts {count} images: give one batch to all")
        if self.teacher is not None and self.teacher.logits.shape[:2] != (count, classes):
            theirs, ours = (f"{n} images and {c} classes" for n, c in (self.teacher.logits.shape[:2], (count, classes)))
            raise UserError(f"the teacher predicts {theirs}, the student {ours}: give both the same batch and the same classes")
        strange = self.labels[(self.labels != IGNORE) & ((self.labels < 0) | (self.labels >= classes))]
        if len(strange):
            raise UserError(
                f"labels hold {int(strange[0])}: a label is a class, 0 to {classes - 1}, or {IGNORE}, which is ignored; "
                f"where it means void: labels[labels == {int(strange[0])}] = {IGNORE}"
            )

    def teacher_logits(self) -> Tensor:
        """Teacher scores (B, C, h, w) on the student's grid: as they are, or bilinear where the grids differ."""
        return self.on_student_grid(self.teacher.logits)

    def heads(self, aux_weight: float) -> Iterator[tuple[str, float, Tensor, Tensor]]:
        """(end of the term's name, weight, scores of student and teacher on one grid) of the main and, with a weight, the auxiliary heads."""
        student, teacher = self.student, self.teacher
        yield "", 1.0, student.logits, self.teacher_logits()
        if aux_weight and student.aux_logits is not None and teacher.aux_logits is not None:
            yield "/aux", aux_weight, student.aux_logits, self.on_student_grid(teacher.aux_logits, student.aux_logits)

    def whole(self) -> Context:
        """The same step with the batch of all processes."""
        images, labels = map(self.shard.gather, (self.images, self.labels))
        student, teacher = Gathered(self.student, self.shard), self.teacher and Gathered(self.teacher, self.shard)
        return dataclasses.replace(self, images=images, labels=labels, student=student, teacher=teacher, shard=None)

    def on_student_grid(self, maps: Tensor, like: Tensor | None = None) -> Tensor:
        """Maps (B, A, h, w) of the teacher on the grid of the student's logits, or of ``like``; bilinear."""
        size = (self.student.logits if like is None else like).shape[-2:]
        return full_precision(resize_scores)(maps, size, self.align_corners)


def class_labels(labels: Tensor) -> Tensor:
    """Labels (B, H, W) or (B, 1, H, W) of an integer type as int64 (B, H, W); UserError for other shapes and types."""
    if labels.is_floating_point() or labels.dim() - (labels.dim() == 4 and labels.shape[1] == 1) != 3:
        shape = tuple(labels.shape)
        raise UserError(f"labels of type {labels.dtype} and shape {shape}: give the number of each pixel's class, integers (B, H, W)")
    return labels.flatten(0, -3).long()


@dataclass(frozen=True)
class TrainingData:
    """What a part may use before the first step: the length of the run, and ``batch(step)``, the images (B, 3, H, W)
    and labels (B, H, W) that the run trains on at that step."""

    steps: int
    batch: Callable[[int], tuple[Tensor, Tensor]]


class TaskWeight(NamedTuple):
    """Weights of the cross-entropy: ``main`` and ``aux`` (B, H, W) or None (plain); see `cross_entropy.task_loss`."""

    main: Tensor
    aux: Tensor | None
    normaliser: Literal["pixels", "selected"]
