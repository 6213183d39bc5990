"""Two networks on one image, side by side: predictions, errors, difficulty, LayerCAM and the IoU of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.analysis.features import evaluating
from segkd.analysis.figures.chart import tell
from segkd.analysis.figures.pictures import colorize, draw_map
from segkd.analysis.figures.style import colours, styled
from segkd.metrics import confusion_matrix, scores
from segkd.prediction import IGNORE, resize_scores

# Okabe-Ito: told apart by every eye, and neither is the grey of the image behind them.
ONLY_HERE, BOTH = (213, 94, 0), (86, 180, 233)
SWATCH = 0.05  # height of the class colours below the bars, as a share of the axis
CELL, GAP, BARS = 2.1, 0.45, 2.5  # inches: width of a map, what stands above and below it, the bars with their legend
CROWDED = 14  # more classes than this have their names askew


@dataclass(frozen=True)
class Look:
    """What one network says of one image: its classes, how hard it finds each pixel, and its IoU of each class there."""

    predicted: np.ndarray  # (H, W) uint8
    difficulty: np.ndarray  # (H, W) float32 in [0, 1]: one minus the probability of the class it chose
    iou: list[float | None]  # of each class on this image; None where it is neither labelled nor predicted
    miou: float  # mean over the others, in [0, 1]


def look(network: nn.Module, x: Tensor, label: np.ndarray) -> Look:
    """``x`` (1, channels, H, W) as the network takes it, ``label`` (H, W) uint8 with 255 = void."""
    with evaluating(network) as device:
        logits = resize_scores(network(x.to(device)).logits, label.shape, network.align_corners)[0].cpu()
    sure, predicted = logits.softmax(0).max(0)
    found = scores(confusion_matrix(predicted, torch.from_numpy(np.array(label)), len(logits)))
    return Look(predicted.numpy().astype(np.uint8), (1 - sure).numpy(), found["iou"], found["miou"])


def stage_layercam(network: nn.Module, x: Tensor, mask: np.ndarray, target: int) -> np.ndarray:
    """LayerCAM (Jiang et al., 2021) at the encoder's last stage: where the score of class ``target`` comes from.

    ``x`` (1, channels, H, W); the score is summed over ``mask`` (H, W) bool. Returns (H, W) >= 0 at image size, unscaled:
    the sum over channels of activation times positive gradient, clipped at zero.
    """
    with evaluating(network) as device, torch.enable_grad():
        said = network(x.to(device).requires_grad_())
        logits = resize_scores(said.logits, mask.shape, network.align_corners)[0]
        score = (logits[target] * torch.from_numpy(mask).to(device)).sum()
        (gradient,) = torch.autograd.grad(score, said.stages[-1])
    activation = (gradient.relu() * said.stages[-1].detach()).sum(1, keepdim=True).relu()
    return F.interpolate(activation, mask.shape, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


def error_picture(image: np.ndarray, label: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3): the darkened image in grey, pixels that only ``predicted`` or that both have wrong; void black."""
    found = np.repeat(image.mean(2, keepdims=True) * 0.5, 3, axis=2).astype(np.uint8)
    wrong, theirs = predicted != label, other != label
    found[wrong & ~theirs], found[wrong & theirs] = ONLY_HERE, BOTH
    found[label == IGNORE] = 0
    return found


@styled
def side_by_side_figure(
    image: np.ndarray,
    label: np.ndarray,
    sides: Sequence[tuple[str, Look, np.ndarray]],
    palette: Sequence,
    classes: Sequence[str],
    target: int,
    overall: Sequence[Sequence[float | None]] = (),
):
    """A row each for the two ``sides`` (name, look, LayerCAM map of class ``target``), and their IoU of each class below.

    ``image`` (H, W, 3) uint8, ``label`` (H, W). Difficulty has one scale, 0 to 1; each LayerCAM its own (scores of two
    networks have no common unit). ``overall``: each side's IoU of each class over the whole split, as dashes on its bars.
    """
    import matplotlib.pyplot as plt

    tall = CELL * image.shape[0] / image.shape[1]
    shown = [c for c in range(len(classes)) if any(seen.iou[c] is not None for _, seen, _ in sides)]
    names = 0.5 if len(shown) > CROWDED else 0.0  # room for names that stand askew
    height = 2 * (tall + GAP) + BARS + names
    figure = plt.figure(figsize=(5 * CELL + 0.65, height), layout="none")  # by hand: a layout engine doubles the time

    def place(left: float, bottom: float, width: float, up: float):
        """Axes at a place in inches."""
        wide, high = figure.get_size_inches()
        return figure.add_axes((left / wide, bottom / high, width / wide, up / high))

    given = [("image", image), ("ground truth", colorize(label, palette))]
    for row, (_, seen, cam) in enumerate(sides):
        letter, other = "AB"[row], sides[1 - row][1]
        errors = error_picture(image, label, seen.predicted, other.predicted)
        cells = [given[row], (f"{letter}: prediction", colorize(seen.predicted, palette)), (f"{letter}: errors", errors)]
        cells += [(f"{letter}: difficulty", seen.difficulty), (f"{letter}: LayerCAM, {classes[target]}", cam)]
        top = float(np.percentile(cam, 99.5)) or 1.0
        for column, (title, cell) in enumerate(cells):
            axis = place(0.6 + column * CELL, height - (row + 1) * (tall + GAP) + 0.2, CELL - 0.12, tall - 0.12 * tall / CELL)
            axis.set_axis_off()
            draw_map(axis, cell, (0.0, 1.0 if column == 3 else top))
            axis.set_title(title, fontsize=9.5, y=1.0, pad=4)  # y given: no search for a free place
    _bars(place(0.6, 0.85 + names, 5 * CELL - 0.12, BARS - 1.05), sides, shown, palette, classes, overall)
    said = " and ".join(f"{letter}, {name}, {100 * seen.miou:.1f} %" for letter, (name, seen, _) in zip("AB", sides))
    return tell(figure, "Two networks on one image: prediction, errors, difficulty, LayerCAM, IoU of each class", f"mIoU on this image: {said}.")


def _bars(axes, sides: Sequence, shown: list[int], palette: Sequence, classes: Sequence[str], overall: Sequence) -> None:
    """Bars of the classes ``shown``; their colours stand below, which makes the bars the legend of the maps."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    place, hue = np.arange(len(shown)), colours([f"{letter}: {name}" for letter, (name, *_) in zip("AB", sides)])
    for row, ((_, seen, _), colour) in enumerate(zip(sides, hue.values())):
        x = place + (row - 0.5) * 0.4
        axes.bar(x, [100 * (seen.iou[c] or 0) for c in shown], 0.38, color=colour)
        if overall:
            means = [np.nan if overall[row][c] is None else 100 * overall[row][c] for c in shown]
            axes.hlines(means, x - 0.19, x + 0.19, color="white", lw=3.4)  # seen on a black bar too
            axes.hlines(means, x - 0.19, x + 0.19, color="#111111", lw=1.6)
    under = axes.get_xaxis_transform()
    for x, c in zip(place, shown):
        colour = np.asarray(palette[c]) / 255
        axes.add_patch(Rectangle((x - 0.4, -SWATCH), 0.8, SWATCH, transform=under, color=colour, clip_on=False, lw=0))
    crowded = len(shown) > CROWDED
    axes.set_xticks(place, [classes[c] for c in shown], rotation=35 if crowded else 0, ha="right" if crowded else "center")
    axes.tick_params(axis="x", pad=9, length=0)
    axes.set(ylim=(0, 100), xlim=(-0.6, len(shown) - 0.4), ylabel="IoU (%)")
    axes.grid(axis="x", visible=False)
    looks = [seen for _, seen, _ in sides]
    handles = [Patch(color=c, label=f"{name}: mIoU {100 * s.miou:.1f} % here") for (name, c), s in zip(hue.items(), looks)]
    handles += [Patch(color=np.asarray(ONLY_HERE) / 255, label="wrong in this row alone")]
    handles += [Patch(color=np.asarray(BOTH) / 255, label="wrong in both")]
    handles += [Line2D([], [], color="#111111", lw=1.6, label="over all images")] if overall else []
    axes.figure.legend(handles=handles, loc="lower center", ncols=2 if len(handles) < 5 else 3, fontsize=9)
