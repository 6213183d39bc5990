"""Whole images through a network, single scale, no flip: one confusion matrix over a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.data.augment import to_batch
from segkd.data.store import Packed
from segkd.losses.method import TeacherKind
from segkd.metrics import confusion_matrix
from segkd.prediction import resize_scores
from segkd.train.runtime import generator


def batches(packed: Packed, batch_size: int = 8):
    """(first index, images, labels) over a split in order, none padded and none twice: own sizes go one by one."""
    batch_size = batch_size if packed.size else 1
    for start in range(0, len(packed), batch_size):
        images, labels, _ = packed.take(range(start, min(start + batch_size, len(packed))))
        yield start, *to_batch(images, labels)


def feed(images: Tensor, labels: Tensor, kind: TeacherKind | None, *key: object) -> Tensor:
    """What the network sees: the images, or for a label-assisted teacher images and noised label (LAD 3.1)."""
    return images if kind is None else kind.teacher_input(images, labels, generator(*key))


@torch.no_grad()
def evaluate(model: nn.Module, packed: Packed, kind: TeacherKind | None = None, seed: int = 0) -> Tensor:
    """Confusion matrix (C, C) int64 of ``model`` in eval mode. With ``kind`` the noised label is part of the input."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total = torch.zeros(packed.num_classes, packed.num_classes, dtype=torch.int64)
    for start, images, labels in batches(packed):
        logits = model(feed(images, labels, kind, seed, "evaluate", start).to(device)).logits
        predicted = resize_scores(logits.float(), labels.shape[-2:], model.align_corners).argmax(1)
        total += confusion_matrix(predicted.cpu(), labels, packed.num_classes)
    model.train(training)
    return total
