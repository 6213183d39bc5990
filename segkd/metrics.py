"""Scores of a label map: confusion matrix, IoU, class accuracy, pixel accuracy. Counts are int64; nothing is averaged early."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # `segkd predict` scores without it

IGNORE = 255


def points(value: float, digits: int = 1) -> str:
    """A difference as it is printed everywhere: a sign, one decimal of points, a real minus; zero has no sign."""
    return f"{0:.{digits}f}" if round(value, digits) == 0 else f"{value:+.{digits}f}".replace("-", "−")


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixel counts (C, C) int64: row = label, column = prediction; pixels of the label 255 leave no trace.

    ``predicted`` and ``labels`` are integer maps of one shape. A label outside 0..C-1 that is not 255 raises ValueError:
    such a map was read with the wrong ids.
    """
    for label in map(int, labels.aminmax() if labels.numel() else ()):
        if not 0 <= label <= IGNORE:
            raise ValueError(f"label {label} outside 0..{num_classes - 1}: wrong label ids?")
    return of_classes(pixel_counts(predicted.long().reshape(1, -1), labels.long().reshape(1, -1), num_classes)[0])


def of_classes(counts: Tensor) -> Tensor:
    """The confusion matrix (C, C) of pixel counts (L, C) by label and prediction; ValueError for a label that is no class."""
    classes = counts.shape[1]
    counts[IGNORE] = 0
    if len(strange := counts[classes:].any(1).nonzero()):
        raise ValueError(f"label {classes + int(strange[-1])} outside 0..{classes - 1}: wrong label ids?")
    return counts[:classes].clone()


def pixel_counts(predicted: Tensor | int, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each image by label 0 ... 255 and prediction, int64 (B, 256, C), of maps (B, H, W); a GPU is not waited for.

    ``predicted``: 0, with one class, counts the labels alone.
    """
    import torch

    from segkd.device import bincount

    rows = IGNORE + 1
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    return bincount((rows * image + labels) * num_classes + predicted, len(labels) * rows * num_classes).view(-1, rows, num_classes)


def label_pixels(labels) -> np.ndarray:
    """Pixels of each value in label maps, N of (H, W) in 0..255: int64 (256,)."""
    return sum((np.bincount(np.ravel(label), minlength=256) for label in labels), np.zeros(256, np.int64))


def image_counts(confusion: Tensor) -> Tensor:
    """What IoU needs of confusion matrices (..., C, C), as (..., 3, C): true positives, label pixels, predicted pixels."""
    import torch

    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], -2)


def scores(confusion: Tensor | np.ndarray) -> dict:
    """``miou``, ``macc``, ``pixel_accuracy`` in [0, 1] and the per-class ``iou`` and ``acc`` (None where undefined).

    IoU_c = n_cc / (n_c. + n_.c - n_cc). A class with an empty union (neither labelled nor predicted) is left out of the
    mean; the code of the papers counts it as 0, which makes no difference where every class occurs.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hit, labelled, guessed = np.diag(counts), counts.sum(1), counts.sum(0)
    union = labelled + guessed - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, hit / union, np.nan)
        acc = np.where(labelled > 0, hit / labelled, np.nan)
    plain = lambda values: [None if np.isnan(v) else float(v) for v in values]  # noqa: E731
    mean = lambda values: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")  # noqa: E731
    total = counts.sum()
    return {
        "miou": mean(iou),
        "macc": mean(acc),
        "pixel_accuracy": float(hit.sum() / total) if total else float("nan"),
        "iou": plain(iou),
        "acc": plain(acc),
    }
