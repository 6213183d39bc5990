"""Pictures of images, label maps and per-pixel maps: sheets of small multiples with a class legend.

Label maps are (H, W) with classes 0..C-1 and 255 = void (drawn black); palettes are (C, 3) RGB 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segkd.analysis.figures.chart import listed, tell
from segkd.analysis.figures.style import INTENSITY, note, styled, subplots
from segkd.metrics import label_pixels
from segkd.prediction import IGNORE
from segkd.registry import UserError

SHOWN_CLASSES = 25  # at most so many in a legend: those with the most pixels


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
def dataset_sheet(packed, indices: Sequence[int]):
    """Images of a packed set beside their labels, two of them side by side, with a class legend below."""
    cells, titles = [], []
    for i in indices:
        cells += [np.asarray(packed.images[i]), colorize(packed.labels[i], packed.palette)]
        titles += [packed.names[i], "label"]
    figure = _grid(cells, columns=4, titles=titles)
    labels = [packed.labels[i] for i in indices]
    _class_legend(figure, packed.classes, packed.palette, labels, {})
    pixels = label_pixels(labels)[: len(packed.classes)]
    share = [f"{packed.classes[c]} {100 * pixels[c] / max(pixels.sum(), 1):.0f} %" for c in np.argsort(-pixels)]
    return tell(figure, f"{len(labels)} images beside their labels", f"Of the labelled pixels: {listed(share)}.")


@styled
def prediction_sheet(images, labels, predictions: dict, palette, classes: Sequence[str]):
    """One row per image: the image, its label, then the prediction of each network (HWD Fig. 4, RDD Fig. 5 and 6).

    ``images`` N of (H, W, 3) uint8, ``labels`` N of (H, W), ``predictions`` {name: N of (H, W)}. Void is black in the label
    only: networks predict there too.
    """
    columns = _columns(images, labels, predictions, palette)
    cells = [column[i] for i in range(len(images)) for column in columns.values()]
    figure = _grid(cells, columns=len(columns), titles=list(columns))
    _class_legend(figure, classes, palette, labels, predictions)
    return tell(figure, f"{len(images)} images, their labels and predictions", _right(labels, predictions))


def _right(labels, predictions: dict) -> str:
    """How many of the labelled pixels each network gets right here."""
    known = sum(int((np.asarray(label) != IGNORE).sum()) for label in labels)
    right = {name: sum(int((np.asarray(own) == label).sum()) for own, label in zip(maps, labels)) for name, maps in predictions.items()}
    return f"Right of the labelled pixels shown: {listed([f'{name} {100 * n / max(known, 1):.1f} %' for name, n in right.items()], 12)}." if right else ""


def _columns(images, labels, predictions: dict, palette) -> dict[str, list[np.ndarray]]:
    maps = {"ground truth": labels, **predictions}
    return {"image": list(images)} | {name: [colorize(one, palette) for one in each] for name, each in maps.items()}


@styled
def map_sheet(rows: Sequence[dict] | dict[str, dict], shared: Sequence[str] = (), legend: dict | None = None, columns: int | None = None):
    """Rows of named maps: RGB uint8 as they are, masks in two tones, numbers by intensity with their range beneath.

    ``rows``: dicts of the same keys, each value (H, W, 3) uint8, (H, W) bool or (H, W) float; {name: row} writes the
    names at the left. The number maps named in ``shared`` have one colour scale over the whole sheet, others one per map.
    ``legend``: {name: RGB 0..255} as colour patches. ``columns``: breaks the maps of a single row into
    lines of so many. For RDD Fig. 3 and 4 and FAKD Fig. 3.
    """
    names, rows = (list(rows), list(rows.values())) if isinstance(rows, dict) else ([], rows)
    titles = list(rows[0])
    if any(list(row) != titles for row in rows):
        raise UserError("map_sheet: the rows name different maps; give every row the same keys in the same order")
    together = np.concatenate([np.ravel(row[name]) for row in rows for name in shared]) if shared else None
    cells = [row[name] for row in rows for name in titles]
    limits = [_limits(together if name in shared else row[name]) for row in rows for name in titles]
    figure = _grid(cells, columns=columns or len(titles), titles=titles, limits=limits)
    for axis, name in zip(figure.axes[:: len(titles)], names):
        axis.text(-0.04, 0.5, name, transform=axis.transAxes, ha="right", va="center", rotation=90, fontsize=_font(figure))
    if legend:
        _patches(figure, [(name, np.asarray(rgb) / 255) for name, rgb in legend.items()])
    means = {name: float(np.mean([np.mean(row[name]) for row in rows])) for name in titles if name not in shared and np.asarray(rows[0][name]).ndim == 2}
    words = [f"{name} {100 * value:.1f} % of the pixels" if np.asarray(rows[0][name]).dtype == bool else f"{name} {value:.3g}" for name, value in means.items()]
    return tell(figure, f"Maps, {len(rows)} row{'s' * (len(rows) > 1)}: {', '.join(titles)}", f"On average: {listed(words, 12)}." if words else "")


@styled
def zoom_sheet(predictions: dict, images, labels, windows: Sequence[tuple], palette, classes: Sequence[str]):
    """Two rows per image: all of it with a frame around its window, then that window (HWD Fig. 4, RDD Fig. 5 and 6).

    ``predictions`` {name: N of (H, W)}, the rest as for `prediction_sheet`; ``windows``: (top, left, height, width) of each
    image. Without a prediction or an image the figure says so.
    """
    from matplotlib.patches import Rectangle

    if not windows:
        return note("no image shows these classes")
    columns, cells = _columns(images, labels, predictions, palette), []
    for i, (top, left, height, width) in enumerate(windows):
        whole = [np.asarray(column[i]) for column in columns.values()]
        cells += [*whole, *(cell[top : top + height, left : left + width] for cell in whole)]
    figure = _grid(cells, columns=len(columns), titles=list(columns), width=2.2)
    for i, (top, left, height, width) in enumerate(windows):
        for axis in figure.axes[2 * i * len(columns) : (2 * i + 1) * len(columns)]:
            frame = {"fill": False, "edgecolor": "white", "lw": 1.6}
            axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **frame))
            axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **frame | {"edgecolor": "black", "lw": 0.7}))
    _class_legend(figure, classes, palette, labels, predictions)
    return tell(figure, f"{len(images)} images, their labels and predictions, each with a window enlarged", _right(labels, predictions))


@styled
def label_noise_sheet(label, palette, parts: dict, classes: Sequence[str]):
    """How LAD's privileged input arises (LAD Fig. 3): the label, then each of ``parts`` in the order given.

    ``parts``: {title: (H, W) float}, such as class-wise noised label, pixel noise and their sum, in units of the
    normalised image. The range of each map stands beneath it.
    """
    cells = [colorize(label, palette), *(np.asarray(p, dtype=float) for p in parts.values())]
    figure = _grid(cells, columns=len(cells), titles=["label", *parts], limits=[_limits(c) for c in cells])
    _class_legend(figure, classes, palette, [label], {})
    spread = [f"{name} {np.std(part):.2g}" for name, part in parts.items()]
    return tell(figure, "A label and the noise that hides it", f"Standard deviation over the pixels: {listed(spread)}.")


def _limits(cell) -> tuple[float, float] | None:
    cell = np.asarray(cell)
    if cell.ndim == 3 or cell.dtype == bool:
        return None
    return float(np.nanmin(cell)), float(np.nanmax(cell))


def _grid(cells: list, columns: int, titles: list[str], limits: list | None = None, width: float = 2.5):
    """Cells row by row without axes. As many titles as columns: on the first row only; more: one for each cell."""
    lines = -(-len(cells) // columns)
    shape = max(cell.shape[0] / cell.shape[1] for cell in cells)
    width = min(width, 15 / columns)
    caption = 0.22 * max(1, columns * width / 10) if limits is not None or len(titles) > columns else 0.05
    caption += 0.2 if limits is not None and len(titles) > columns else 0
    size = (columns * width, lines * (width * shape + caption) + 0.3)
    figure, axes = subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, cell) in enumerate(zip(axes.flat, cells)):
        draw_map(axis, cell, None if limits is None else limits[i])
        if i < len(titles):
            axis.set_title(titles[i], fontsize=_font(figure))
    return figure


def _font(figure) -> float:
    """Size of the text on a sheet: a page scales wide sheets down to about 10 inches, and 9 points should be left."""
    return 9 * max(1.0, figure.get_figwidth() / 10)


def draw_map(axis, cell, limits: tuple[float, float] | None = None) -> None:
    """One map on an axis, pixels sharp; a map of numbers has its range beneath."""
    cell = np.asarray(cell)
    numbers = cell.ndim == 2 and cell.dtype != bool
    low, high = (limits or _limits(cell)) if numbers else (0, 1)
    axis.imshow(cell, cmap=INTENSITY if numbers else "gray", vmin=low, vmax=high, interpolation="nearest")
    if numbers:
        digits = 2 if high - low > 0.1 else 5
        text = f"{round(low, digits) + 0:g} to {round(high, digits) + 0:g}"  # + 0: no minus zero
        axis.text(0.5, -0.03, text, transform=axis.transAxes, ha="center", va="top", fontsize=_font(axis.figure) - 1)


def _class_legend(figure, classes: Sequence[str], palette, labels, predictions: dict) -> None:
    """Colour patches of the classes that occur in labels or predictions, and black for void if it does, below the sheet."""
    pixels = label_pixels([*labels, *(one for maps in predictions.values() for one in maps)])
    present = np.flatnonzero(pixels[:IGNORE])
    named = sorted(present[np.argsort(-pixels[present], kind="stable")][:SHOWN_CLASSES])
    entries = [(classes[c], np.asarray(palette[c]) / 255) for c in named]
    entries += [("void", (0, 0, 0))] if pixels[IGNORE] else []
    entries += [(f"and {len(present) - len(named)} smaller ones", (1, 1, 1))] if len(present) > len(named) else []
    _patches(figure, entries)


def _patches(figure, entries: list[tuple]) -> None:
    """(name, colour) pairs as a legend below the sheet, which grows by it."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, edgecolor="#333333", lw=0.5, label=name) for name, colour in entries]
    font = _font(figure)
    columns = max(1, min(len(handles), int(9 * figure.get_figwidth() / font / 1.25)))
    figure.set_figheight(figure.get_figheight() + 0.025 * font * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=font - 0.5, handlelength=1.2)
