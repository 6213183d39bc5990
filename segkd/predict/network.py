"""An exported ONNX file in onnxruntime: what it says of itself, and label maps of images of any size, in tiles where they are large."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkd.ids import ColourMap, IdMap
from segkd.registry import UserError

ABOUT = ("classes", "palette", "size", "smallest", "masks")  # what a file says of itself, each as JSON
TILE, OVERLAP = 1024, 128  # pixels a side, where the file takes images at their own size


@dataclass(frozen=True)
class Network:
    """A file of `segkd export`, open. ``size``: what images are resized to, (H, W); None: they keep their own."""

    session: Any
    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 (C, 3)
    size: tuple[int, int] | None
    smallest: int
    ids: IdMap | ColourMap  # of what ground truth holds

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) to scores (B, C, H, W) or labels (B, H, W)."""
        batch = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        return self.session.run(None, {"images": batch})[0]


def load(path: Path) -> Network:
    """UserError: no such file, not ONNX, not of `segkd export`, or no onnxruntime here."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("`segkd predict` needs the package onnxruntime: pip install onnxruntime") from error
    if not Path(path).is_file():
        raise UserError(f"no file '{path}': give the .onnx that `segkd export` wrote")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[p for p in wanted if p in onnxruntime.get_available_providers()])
    except Exception as error:  # onnxruntime's kinds share no base
        raise UserError(f"'{path}' is no ONNX file that onnxruntime reads ({str(error).splitlines()[0][:120]})") from error
    about = session.get_modelmeta().custom_metadata_map
    try:
        classes, palette, size, smallest, masks = (json.loads(about[key]) for key in ABOUT)
        ids = (ColourMap if masks["holds"] == "colours" else IdMap)(masks["values"], masks["ignored"])
        colours = np.array(palette, np.uint8).reshape(len(classes), 3)
        network = Network(session, tuple(classes), colours, size and tuple(size), smallest, ids)
        network(np.zeros((1, *(size or (smallest, smallest)), 3), np.uint8))
    except Exception as error:
        why = f"{type(error).__name__}: {str(error)[:120]}"
        raise UserError(f"'{path}' does not say its classes, colours and size as it should ({why}): write it with this version's `segkd export`") from error
    return network


def label_maps(network: Network, images: Sequence[np.ndarray], batch: int = 8, tile: int = TILE) -> Iterator[np.ndarray]:
    """Classes uint8 (H, W) of each image, in order, at its own size."""
    work = ((index, box, piece) for index, image in enumerate(images) for box, piece in pieces(network, image, tile))
    canvas = [np.zeros(image.shape[:2], np.uint8) for image in images]
    for _, same in groupby(work, key=lambda item: item[2].shape):
        same = list(same)
        for start in range(0, len(same), batch):
            part = same[start : start + batch]
            for (index, box, _), made in zip(part, network(np.stack([piece for *_, piece in part]))):
                rows, columns, inner = box
                canvas[index][rows, columns] = _classes_at(made, canvas[index].shape) if inner is None else _classes_at(made)[inner]
    yield from canvas


def pieces(network: Network, image: np.ndarray, tile: int = TILE) -> Iterator[tuple[tuple, np.ndarray]]:
    """What the network sees of an image: all of it resized, or tiles at its own scale, each with the part of the map that it fills.

    Tiles overlap, and each fills its side of the middle of the overlap. A side below the network's smallest is padded by its edge.
    """
    height, width = image.shape[:2]
    if network.size:
        yield (slice(None), slice(None), None), np.asarray(Image.fromarray(image).resize(network.size[::-1], Image.Resampling.BILINEAR))
        return
    short = [max(network.smallest - side, 0) for side in (height, width)]
    image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge") if any(short) else image
    for top, rows in _spans(height, image.shape[0], tile):
        for left, columns in _spans(width, image.shape[1], tile):
            inner = tuple(slice(s.start - first, s.stop - first) for s, first in ((rows, top), (columns, left)))
            yield (rows, columns, inner), image[top : top + tile, left : left + tile]


def _spans(length: int, padded: int, tile: int) -> list[tuple[int, slice]]:
    """Where tiles begin on an axis, and which part of the axis each fills."""
    count = max(1, -(-(length - OVERLAP) // (tile - OVERLAP)))
    starts = np.linspace(0, max(padded - tile, 0), count).round().astype(int).tolist()
    cuts = [0, *((before + tile + after) // 2 for before, after in zip(starts, starts[1:])), length]
    return [(start, slice(low, high)) for start, low, high in zip(starts, cuts, cuts[1:])]


def _classes_at(made: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Scores (C, h, w) or labels (h, w) as classes uint8 at ``size`` (H, W): scores are resized before the best is taken."""
    if made.ndim == 2:
        return _resized(made.astype(np.uint8), size, Image.Resampling.NEAREST)
    best, label = None, None
    for number, score in enumerate(made):  # one class at a time: all of a large image would not fit into memory
        score = _resized(score, size, Image.Resampling.BILINEAR)
        if best is None:
            best, label = score.copy(), np.zeros(score.shape, np.uint8)
        else:
            np.copyto(label, np.uint8(number), where=score > best)
            np.maximum(best, score, out=best)
    return label


def _resized(values: np.ndarray, size: tuple[int, int] | None, how: Image.Resampling) -> np.ndarray:
    return values if size in (None, values.shape) else np.asarray(Image.fromarray(values).resize(size[::-1], how))
