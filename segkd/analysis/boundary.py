"""How a network does near the edges between classes: bands along boundaries, boundary IoU, values by distance.

Distances are chessboard distances (the larger of the row and column steps), so a band of width d is what d erosions by a
3x3 square take away. Void is no class: it makes no edge and counts nowhere; nor does the border of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.analysis.features import evaluating
from segkd.analysis.figures.chart import runs_of, tell
from segkd.analysis.figures.style import colours, styled, subplots
from segkd.prediction import IGNORE, resize_scores
from segkd.registry import UserError
from segkd.train.evaluate import batches

EDGES = (1, 2, 4, 8, 16)  # pixels: upper ends of the distance bins; the last bin is what lies farther


def boundary_band(labels: Tensor, width: int) -> Tensor:
    """Where another class lies at most ``width`` pixels away: labels (B, H, W) int64 to bool (B, H, W); void is False."""
    return next(_bands(labels, (width,)))


def distance_bins(labels: Tensor, edges: tuple[int, ...] = EDGES) -> Tensor:
    """Distance of each pixel to the nearest pixel of another class, as a bin: 0 for at most ``edges[0]``, and so on.

    ``len(edges)`` for farther than the last edge, -1 for void. (B, H, W) int64.
    """
    bins = torch.full_like(labels, len(edges)).masked_fill(labels == IGNORE, -1)
    for index, band in enumerate(_bands(labels, edges)):
        bins[band & (bins == len(edges))] = index
    return bins


def split_bins(packed, edges: tuple[int, ...] = EDGES) -> list[Tensor]:
    """`distance_bins` of each batch of a split, (B, H, W) int8: made once for many networks."""
    return [distance_bins(labels, edges).to(torch.int8) for _, _, labels in batches(packed)]


def _bands(labels: Tensor, widths: tuple[int, ...]) -> Iterator[Tensor]:
    """The band of each width, growing: where the window around a pixel has a larger or a smaller class than its own."""
    if min(widths) < 1:
        raise UserError(f"boundary_band: a band is at least 1 pixel wide, got {min(widths)}")
    void, known, reach = (labels == IGNORE)[:, None], labels.float()[:, None], 0
    largest, smallest = known.masked_fill(void, -1), known.masked_fill(void, IGNORE)
    for width in widths:
        largest, smallest = _window_max(largest, width - reach), -_window_max(-smallest, width - reach)
        reach = width
        yield (((largest != known) | (smallest != known)) & ~void)[:, 0]


def _window_max(values: Tensor, reach: int) -> Tensor:
    """Largest value within ``reach`` rows and columns; the two directions one after the other."""
    size = 2 * reach + 1
    return F.max_pool2d(F.max_pool2d(values, (size, 1), 1, (reach, 0)), (1, size), 1, (0, reach))


def bin_names(edges: tuple[int, ...] = EDGES) -> list[str]:
    """The distance bins in words, in pixels."""
    starts = [1, *(edge + 1 for edge in edges)]
    names = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, edges)]
    return [*names, f"> {edges[-1]}"]


def band_width(size: tuple[int, int]) -> int:
    """Width of the band in pixels for images (H, W): 2 % of the diagonal, as in the paper of Boundary IoU, at least 1."""
    return max(1, round(0.02 * (size[0] ** 2 + size[1] ** 2) ** 0.5))


def boundary_counts(predicted: Tensor, labels: Tensor, num_classes: int, width: int) -> Tensor:
    """Pixels in both bands, in the label's, in the prediction's, for each class: int64 (3, C).

    A class's band is that part of it which lies at most ``width`` from another class; void leaves no trace.
    """
    predicted = predicted.masked_fill(labels == IGNORE, IGNORE)
    true = torch.where(boundary_band(labels, width), labels, num_classes)
    guess = torch.where(boundary_band(predicted, width), predicted, num_classes)
    both = torch.where(true == guess, true, num_classes)
    count = lambda t: torch.bincount(t.flatten(), minlength=num_classes + 1)[:num_classes]  # noqa: E731
    return torch.stack([count(both), count(true), count(guess)])


def predicted_maps(model: nn.Module, packed, change: Callable = lambda images: images) -> Iterator[tuple[Tensor, Tensor]]:
    """(predicted classes, labels), both (B, H, W) int64, over a split of a network that sees the image alone.

    ``change``: what is made of the images (B, 3, H, W) first.
    """
    with evaluating(model) as device:
        for _, images, labels in batches(packed):
            scores = model(change(images).to(device)).logits
            yield resize_scores(scores, labels.shape[-2:], model.align_corners).argmax(1).cpu(), labels


def boundary_iou(model: nn.Module, packed) -> np.ndarray:
    """IoU of the bands along the boundaries of each class, counts pooled over the split: float64 (C,), NaN if undefined.

    Boundary IoU (Cheng et al., CVPR 2021) for label maps instead of single objects; unlike there, the border of the
    image is no boundary.
    """
    total = np.zeros((3, packed.num_classes))
    for predicted, labels in predicted_maps(model, packed):
        width = band_width(tuple(labels.shape[-2:]))
        total += boundary_counts(predicted, labels, packed.num_classes, width).numpy()
    both, true, guess = total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(true + guess - both > 0, both / (true + guess - both), np.nan)


def mean_boundary_iou(model: nn.Module, packed) -> float:
    """Mean of `boundary_iou` over the classes where it is defined, in [0, 1]."""
    found = boundary_iou(model, packed)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


@styled
def distance_figure(df: pd.DataFrame, values: dict[str, str]):
    """Means by distance to the nearest boundary (RDD Fig. 3, claim by claim): one panel per value.

    ``df``: columns distance (bins in order, as `bin_names`), series, seed and those of ``values`` {column: axis label}.
    A line per series through the means, a point per seed.
    """
    order, series = list(dict.fromkeys(df["distance"])), list(dict.fromkeys(df["series"]))
    figure, panels = subplots(1, len(values), figsize=(4.2 * len(values), 3.4), squeeze=False)
    hue, marks, said = colours(series), [], []
    for axes, (column, label) in zip(panels[0], values.items()):
        for name in series:
            own = df[df["series"] == name].dropna(subset=column)
            at = own["distance"].map(order.index)
            mean = own[column].groupby(at).mean()
            axes.plot(mean.index, mean, "-o", color=hue[name], label=name)
            axes.scatter(at, own[column], s=12, color=hue[name], alpha=0.45, lw=0)
            marks += [(axes, i, i, v, v, f"{name}, {order[i]} pixels: {v:.3f}, mean of {own['seed'].nunique()}{runs_of(df, name)}") for i, v in mean.items()]
            said += [f"{label} {mean.iloc[0]:.2f} at {order[0]} and {mean.iloc[-1]:.2f} at {order[-1]} pixels"] if len(mean) and name == series[-1] else []
        axes.set_xticks(range(len(order)), order)
        axes.set(xlabel="distance to another class (pixels)", ylabel=label)
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return tell(figure, "Curves over the distance to another class", f"{series[-1]}: {'; '.join(said)}.", marks)
