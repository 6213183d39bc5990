"""Thin objects by rule: how wide a class's regions are, and where in which image to look for the thinnest ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from segkd.metrics import label_pixels
from segkd.prediction import IGNORE

Window = tuple[int, int, int, int]  # top, left, height, width in pixels


def class_widths(labels, num_classes: int) -> np.ndarray:
    """Mean width in pixels of each class's regions, 2 * area / perimeter: float64 (C,), NaN for a class that is not there.

    ``labels``: N of (H, W). The perimeter counts the sides of pixels between a class and another one; sides to void and the
    border of the image are none. A strip much longer than wide gives its width; a class without a side gives inf.
    """
    area, sides = np.zeros(num_classes + 1), np.zeros(num_classes + 1)
    for label in labels:
        known = np.where(np.asarray(label) == IGNORE, num_classes, label).astype(np.int64)
        area += np.bincount(known.ravel(), minlength=num_classes + 1)
        for one, other in ((known[1:], known[:-1]), (known[:, 1:], known[:, :-1])):
            edge = (one != other) & (one != num_classes) & (other != num_classes)
            for ends in (one[edge], other[edge]):
                sides += np.bincount(ends, minlength=num_classes + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (2 * area / sides)[:num_classes]


def widths_frame(packed) -> pd.DataFrame:
    """`class_widths` of a split beside each class's share of its labelled pixels in percent, thinnest first."""
    widths = class_widths(packed.labels, len(packed.classes))
    pixels = label_pixels(packed.labels)[: len(widths)]
    frame = pd.DataFrame({"class": list(packed.classes), "width": widths, "share": 100 * pixels / max(pixels.sum(), 1)})
    return frame[pixels > 0].sort_values("width", kind="stable", ignore_index=True)


def thinnest(labels, num_classes: int, count: int = 3) -> list[int]:
    """The ``count`` classes of the smallest mean width, thinnest first.

    Classes with less than a thousandth of the labelled pixels are too rare to look at, unless there are no others.
    """
    widths, pixels = class_widths(labels, num_classes), label_pixels(labels)[:num_classes]
    order = [int(c) for c in np.argsort(np.where(np.isnan(widths), np.inf, widths), kind="stable") if pixels[c]]
    common = [c for c in order if pixels[c] >= 1e-3 * pixels.sum()]
    return (common or order)[:count]


def best_window(label, classes: Sequence[int], share: float = 1 / 3) -> tuple[int, Window]:
    """The window with the most pixels of the classes, and how many: (count, window), ``share`` of the image each way.

    The topmost and leftmost of equal ones.
    """
    hit = torch.from_numpy(np.isin(np.asarray(label), list(classes))).float()[None, None]
    size = tuple(max(1, round(n * share)) for n in hit.shape[-2:])
    counts = (F.avg_pool2d(hit, size, 1) * (size[0] * size[1])).round()[0, 0]
    top, left = divmod(int(counts.argmax()), counts.shape[1])
    return int(counts[top, left]), (top, left, *size)


def chosen_frames(labels, classes: Sequence[int], count: int = 3, share: float = 1 / 3) -> list[tuple[int, Window]]:
    """(image, window) of the image that shows most of the classes in one window, in each of ``count`` parts of the split.

    Parts, since neighbours in a video are alike; a part without any such pixel gives none.
    """
    found = []
    for part in np.array_split(np.arange(len(labels)), count):
        windows = {int(i): best_window(labels[i], classes, share) for i in part}
        best = max(windows, key=lambda i: windows[i][0], default=None)  # the first of equal ones
        if best is not None and windows[best][0]:
            found.append((best, windows[best][1]))
    return found
