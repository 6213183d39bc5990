"""`segkd predict`: an exported ONNX file on images. Needs onnxruntime, numpy and pillow; torch is not imported."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segkd.metrics import IGNORE, scores
from segkd.predict.files import find_images, find_label, read_image, read_label, write_csv, write_pictures
from segkd.predict.network import OVERLAP, TILE, Network, label_maps, load
from segkd.registry import UserError
from segkd.study.numbers.statistics import image_difference, image_miou

PIXELS = 1 << 25  # that the images held at a time have, but for the last one
AREAS = "areas.csv"


def predict(
    file: Path, images: Sequence[Path], out: Path, labels: Path | None = None, against: Path | None = None, batch: int = 8, tile: int = TILE
) -> Iterator[str]:
    """Write ``out``/masks (index PNG), overlays and class areas of all images, and say what came out, line by line.

    ``images``: files and folders. ``labels``: a folder of masks of the same names, to score. ``against``: another file, compared
    image by image. Each file appears whole or not at all. UserError: bad input, said before anything is written; images that
    cannot be read, said when the others are done; a full disk.
    """
    network, other = load(file), load(against) if against else None
    if other and other.classes != network.classes:
        raise UserError(f"'{file}' and '{against}' have different classes ({', '.join(network.classes)}; {', '.join(other.classes)}): they cannot be compared")
    if batch < 1 or tile < max(2 * OVERLAP, *(n.smallest for n in (network, other) if n)):
        raise UserError(f"--batch {batch}, --tile {tile}: a batch is 1 or more, a tile {2 * OVERLAP} or more and no less than the network's {network.smallest}")
    found = find_images(images)
    truth = {name: find_label(labels, name) for name in found} if labels else {}
    rows, bad, begin, done = [], [], time.monotonic(), 0
    for chunk in _chunks(found, batch, bad):
        pictures = [image for _, image in chunk]
        maps = [list(label_maps(n, pictures, batch, tile)) for n in (network, other) if n]
        for (name, image), *made in zip(chunk, *maps):
            try:
                label = read_label(truth[name], network.ids, image, found[name]) if truth else None
            except UserError as error:
                bad.append(str(error))
                continue
            if not rows:
                _claim(out, network)
            write_pictures(out, name, image, made[0], network)
            rows.append(_measured(name, made, label, len(network.classes)))
        done += len(chunk)
        _progress(done, len(found), begin)
    if rows:
        yield from _tables(out, rows, network, other)
        yield f"{len(rows)} images in {(time.monotonic() - begin) / len(rows):.2f} s each: masks, overlays and {AREAS} in {out}"
    if bad:
        raise UserError(f"{len(bad)} of {len(found)} images could not be used: {' | '.join(bad[:3])}{' | ...' if len(bad) > 3 else ''}; the others are done")


def _chunks(found: dict[str, Path], batch: int, bad: list[str]) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Images with their names, a few at a time; what cannot be read goes into ``bad``."""
    chunk: list[tuple[str, np.ndarray]] = []
    for name, path in found.items():
        try:
            chunk.append((name, read_image(path)))
        except UserError as error:
            bad.append(str(error))
        if len(chunk) == batch or sum(image.size for _, image in chunk) > 3 * PIXELS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _measured(name: str, made: Sequence[np.ndarray], label: np.ndarray | None, classes: int) -> dict:
    """What is kept of an image: pixels of each class a network, share of equal pixels, and with a label confusion and counts."""
    row = {"image": name, "areas": [np.bincount(m.ravel(), minlength=classes)[:classes] for m in made]}
    if len(made) == 2:
        row["agreement"] = float((made[0] == made[1]).mean())
    if label is not None:
        seen = label != IGNORE
        pairs = [label[seen].astype(np.int64) * classes + m[seen] for m in made]
        row["confusion"] = [np.bincount(p, minlength=classes**2).reshape(classes, classes) for p in pairs]
        row["counts"] = [np.stack([c.diagonal(), c.sum(1), c.sum(0)]) for c in row["confusion"]]
    return row


def _tables(out: Path, rows: list[dict], network: Network, other: Network | None) -> Iterator[str]:
    """Write the tables and say their sums."""
    names = [row["image"] for row in rows]
    areas = np.array([row["areas"] for row in rows])  # (N, networks, C)
    write_csv(out / AREAS, ["image", "pixels", *network.classes], ([n, a[0].sum(), *a[0]] for n, a in zip(names, areas)))
    columns: dict[str, Sequence] = {"image": names}
    if other:
        columns["agreement"] = [row["agreement"] for row in rows]
    found = []
    if "counts" in rows[0]:
        counts = np.array([row["counts"] for row in rows])
        found = [scores(sum(row["confusion"][k] for row in rows)) for k in range(counts.shape[1])]
        columns |= {label: image_miou(counts[:, k]) for k, label in zip(range(len(found)), ("miou", "miou_against"))}
    if len(columns) > 1:
        write_csv(out / "images.csv", list(columns), zip(*columns.values()))
    share = areas.sum(0) / areas.sum((0, 2))[:, None]
    for place, name in enumerate(network.classes):
        line = f"{name:20} {share[0, place]:7.1%} of the pixels" + (f", against {share[1, place]:.1%}" if other else "")
        if found:
            iou = ", ".join("–" if f["iou"][place] is None else f"{f['iou'][place]:.1%}" for f in found)
            labelled = counts[:, 0, 1, place]
            line += f"; IoU {iou} on {labelled.sum()} labelled pixels of {(labelled > 0).sum()} images"
        yield line
    if other:
        yield f"agreement {np.average(columns['agreement'], weights=areas[:, 0].sum(1)):.2%} of the pixels; least on '{names[int(np.argmin(columns['agreement']))]}'"
    if found:
        yield f"mIoU {', against '.join('{:.1%}'.format(f['miou']) for f in found)} on {len(rows)} images"
    if other and found:
        gap = columns["miou"] - columns["miou_against"]
        yield (
            f"difference {image_difference(counts[:, 0], counts[:, 1])} points of mIoU (95 % interval over these images, where they are enough); "
            f"better on {(gap > 0).sum()} images, worse on {(gap < 0).sum()}"
        )


def _claim(out: Path, network: Network) -> None:
    """Begin the folder with an empty table; UserError where masks or overlays lie that `segkd predict` did not make."""
    if not (out / AREAS).exists() and any((out / name).exists() for name in ("masks", "overlays")):
        raise UserError(f"'{out}' holds masks or overlays of somebody else (no {AREAS} is beside them): give another --out")
    write_csv(out / AREAS, ["image", "pixels", *network.classes], [])


def _progress(done: int, total: int, begin: float) -> None:
    """On a terminal one line that stays, elsewhere nothing."""
    if sys.stderr.isatty():
        left = (time.monotonic() - begin) / done * (total - done)
        print(f"\r{done}/{total} images, {left:.0f} s left  ", end="\n" if done == total else "", file=sys.stderr, flush=True)
