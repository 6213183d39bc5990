"""Whole images through a network, single scale, no flip: one confusion matrix over a split, and the counts of each image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from segkd.data.augment import to_batch
from segkd.data.resident import take
from segkd.data.store import Packed
from segkd.losses.distributed import Shard, sum_over_processes
from segkd.losses.method import TeacherKind
from segkd.metrics import image_counts, of_classes, pixel_counts
from segkd.prediction import IGNORE, resize_scores
from segkd.train.processes import rank, world_size
from segkd.train.runtime import generator, like

CPU = torch.device("cpu")


def batches(packed: Packed, batch_size: int = 8, rank: int = 0, world_size: int = 1, device: torch.device = CPU):
    """(first index, images, labels) over a split in order, on ``device``, none padded and none twice: own sizes go one by one.

    ``rank`` of ``world_size`` processes gets every ``world_size``-th batch.
    """
    batch_size = batch_size if packed.size else 1
    for start in range(rank * batch_size, len(packed), world_size * batch_size):
        index = np.arange(start, min(start + batch_size, len(packed)))
        images, labels, _ = packed.take(index) if device.type == "cpu" else take(packed, index, device)
        yield start, *to_batch(images, labels)


def feed(images: Tensor, labels: Tensor, kind: TeacherKind | None, *key: object, shard: Shard | None = None) -> Tensor:
    """What the network sees: the images, or for a label-assisted teacher images and noised label (LAD 3.1).

    ``shard``: what the images are of the batch for which the noise is drawn; None: all of it.
    """
    return images if kind is None else for_shard(shard, kind.teacher_input, images, labels, generator(*key))


def for_shard(shard: Shard | None, make: Callable[..., Tensor], images: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
    """``make(images, labels, draws)``, of the whole batch where these are a shard, so that the draws are those of one process."""
    return make(images, labels, draws) if shard is None else shard.cut(make(shard.gather(images), shard.gather(labels), draws))


def evaluate(model: nn.Module, packed: Packed, kind: TeacherKind | None = None, seed: int = 0) -> Tensor:
    """Confusion matrix (C, C) int64 of ``model`` in eval mode. With ``kind`` the noised label is part of the input.

    Where several processes train the run, each takes every so-manieth batch: the matrix counts each image once.
    """
    return evaluate_each(model, packed, kind, seed)[0]


@torch.no_grad()
def evaluate_each(model: nn.Module, packed: Packed, kind: TeacherKind | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The matrix of `evaluate`, and each image's true positives, label pixels and predicted pixels: (N, 3, C) int64.

    Both are summed on the network's device and copied once.
    """
    device, classes, training = next(model.parameters()).device, packed.num_classes, model.training
    model.eval()
    total = torch.zeros(IGNORE + 1, classes, dtype=torch.int64, device=device)
    each = torch.zeros(len(packed), 3, classes, dtype=torch.int64, device=device)
    with like(model):
        for start, images, labels in batches(packed, rank=rank(), world_size=world_size(), device=device):
            logits = model(feed(images, labels, kind, seed, "evaluate", start)).logits
            resized = resize_scores(logits, labels.shape[-2:], model.align_corners)
            predicted = resized.max(1).indices  # that of argmax, many times faster
            counts = pixel_counts(predicted, labels, classes)
            each[start : start + len(labels)] = image_counts(counts[:, :classes])
            total += counts.sum(0)
    model.train(training)
    return of_classes(sum_over_processes(total).cpu()), sum_over_processes(each).cpu()
