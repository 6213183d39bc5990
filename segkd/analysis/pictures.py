"""Pictures of images, label maps and per-pixel maps: sheets of small multiples with a class legend.

Label maps are (H, W) with classes 0..C-1 and 255 = void (drawn black); palettes are (C, 3) RGB 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segkd.analysis.style import INTENSITY, styled
from segkd.prediction import IGNORE
from segkd.registry import UserError


def colorize(label, palette) -> np.ndarray:
    """A label map (..., H, W) as RGB uint8 (..., H, W, 3); void (255) is black. ValueError: no colour."""
    label = np.asarray(label)
    colours = np.zeros((IGNORE + 1, 3), dtype=np.uint8)
    colours[: len(palette)] = np.asarray(palette, dtype=np.uint8)
    wrong = (label != IGNORE) & ((label < 0) | (label >= len(palette)))
    if wrong.any():
        raise ValueError(f"class {label[wrong].flat[0]} has no colour: the palette has {len(palette)} (255 is void)")
    return colours[label]


@styled
def dataset_sheet(packed, indices: Sequence[int] = (0, 1, 2, 3, 4, 5), pairs: int = 2):
    """Images of a packed set beside their labels, ``pairs`` of them side by side, with a class legend below."""
    cells, titles = [], []
    for i in indices:
        cells += [np.asarray(packed.images[i]), colorize(packed.labels[i], packed.palette)]
        titles += [packed.names[i] if hasattr(packed, "names") else f"image {i}", "label"]
    figure = _grid(cells, columns=2 * pairs, titles=titles)
    _class_legend(figure, packed.classes, packed.palette, np.unique(np.asarray([packed.labels[i] for i in indices])))
    return figure


@styled
def prediction_sheet(images, labels, predictions: dict, palette, classes: Sequence[str] | None = None):
    """One row per image: the image, its label, then the prediction of each network (HWD Fig. 4, RDD Fig. 5 and 6).

    ``images`` (N, H, W, 3) uint8, ``labels`` (N, H, W), ``predictions`` {name: (N, H, W)}. Void is black in the label
    only: networks predict there too.
    """
    columns = {"image": list(images), "ground truth": list(colorize(labels, palette))}
    columns |= {name: list(colorize(maps, palette)) for name, maps in predictions.items()}
    cells = [column[i] for i in range(len(images)) for column in columns.values()]
    figure = _grid(cells, columns=len(columns), titles=list(columns))
    if classes is not None:
        _class_legend(figure, classes, palette, np.unique(labels))
    return figure


@styled
def map_sheet(rows: Sequence[dict], shared: Sequence[str] = (), legend: str | None = None):
    """Rows of named maps: RGB uint8 as they are, masks in two tones, numbers by intensity with their range beneath.

    ``rows``: dicts of the same keys, each value (H, W, 3) uint8, (H, W) bool or (H, W) float. The number maps named in
    ``shared`` have one colour scale over the whole sheet, others one per map. For RDD Fig. 3 and 4 and FAKD Fig. 3.
    """
    titles = list(rows[0])
    if any(list(row) != titles for row in rows):
        raise UserError("map_sheet: the rows name different maps; give every row the same keys in the same order")
    together = np.concatenate([np.ravel(row[name]) for row in rows for name in shared]) if shared else None
    cells = [row[name] for row in rows for name in titles]
    limits = [_limits(together if name in shared else row[name]) for row in rows for name in titles]
    figure = _grid(cells, columns=len(titles), titles=titles, limits=limits)
    if legend:
        figure.supxlabel(legend, fontsize=9)
    return figure


@styled
def label_noise_sheet(label, palette, parts: dict, classes: Sequence[str] | None = None):
    """How LAD's privileged input arises (LAD Fig. 3): the label, then each of ``parts`` in the order given.

    ``parts``: {title: (H, W) float}, such as class-wise noised label, pixel noise and their sum, in units of the
    normalised image. The range of each map stands beneath it.
    """
    cells = [colorize(label, palette), *(np.asarray(p, dtype=float) for p in parts.values())]
    figure = _grid(cells, columns=len(cells), titles=["label", *parts], limits=[_limits(c) for c in cells])
    if classes is not None:
        _class_legend(figure, classes, palette, np.unique(label))
    return figure


def _limits(cell) -> tuple[float, float] | None:
    cell = np.asarray(cell)
    if cell.ndim == 3 or cell.dtype == bool:
        return None
    return float(np.nanmin(cell)), float(np.nanmax(cell))


def _grid(cells: list, columns: int, titles: list[str], limits: list | None = None, width: float = 2.5):
    """Cells row by row without axes. As many titles as columns: on the first row only; more: one for each cell."""
    import matplotlib.pyplot as plt

    lines = -(-len(cells) // columns)
    shape = cells[0].shape[0] / cells[0].shape[1]
    caption = 0.22 if limits is not None or len(titles) > columns else 0.05
    width = min(width, 15 / columns)
    size = (columns * width, lines * (width * shape + caption) + 0.3)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, cell) in enumerate(zip(axes.flat, cells)):
        draw_map(axis, cell, None if limits is None else limits[i])
        if i < len(titles):
            axis.set_title(titles[i], fontsize=9)
    return figure


def draw_map(axis, cell, limits: tuple[float, float] | None = None) -> None:
    """One map on an axis, pixels sharp; a map of numbers has its range beneath."""
    cell = np.asarray(cell)
    numbers = cell.ndim == 2 and cell.dtype != bool
    low, high = (limits or _limits(cell)) if numbers else (0, 1)
    axis.imshow(cell, cmap=INTENSITY if numbers else "gray", vmin=low, vmax=high, interpolation="nearest")
    if numbers:
        digits = 2 if high - low > 0.1 else 5
        text = f"{round(low, digits) + 0:g} to {round(high, digits) + 0:g}"  # + 0: no minus zero
        axis.text(0.5, -0.03, text, transform=axis.transAxes, ha="center", va="top", fontsize=8)


def _class_legend(figure, classes: Sequence[str], palette, present) -> None:
    """Colour patches of the classes that occur, and black for void if it does, below the sheet."""
    from matplotlib.patches import Patch

    entries = [(classes[c], np.asarray(palette[c]) / 255) for c in present if c != IGNORE]
    entries += [("void", (0, 0, 0))] if IGNORE in present else []
    handles = [Patch(facecolor=colour, edgecolor="#333333", lw=0.5, label=name) for name, colour in entries]
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.25)))
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5, handlelength=1.2)
