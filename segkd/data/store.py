"""Packs: a split read once into memory-mapped uint8 arrays, at one size or at the images' own, and what is taken from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkd.data.catalog import Dataset, create_dataset
from segkd.data.files.unpack import file_lock
from segkd.data.overlap import check_overlap
from segkd.data.packing import first_pixels, measure_sizes, same_size, write_pack
from segkd.data.readers.folder_config import UNLABELLED
from segkd.data.verify import VALUE_IS_A_CLASS, splits_of
from segkd.metrics import IGNORE, label_pixels
from segkd.registry import UserError

VERSION = 1  # raise it when the arrays made from the same files change


@dataclass(frozen=True)
class Meta:
    """What lies beside the arrays as meta.json. ``size``: None where the images keep sizes of their own."""

    name: str
    split: str
    size: tuple[int, int] | None
    names: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    fingerprint: str
    version: int = VERSION
    pixels: str = ""  # SHA-256 of images and labels, see `packing.pixel_hash`; none in packs of older versions


class Packed:
    """A packed split, read-only: ``take`` gives batches, ``images`` and ``labels`` single ones, whatever lies on the disk.

    ``size``: the (H, W) of all images, or None where each has its own; those are ``sizes``, int64 (N, 2). ``images``: uint8
    (N, H, W, 3) in RGB, ``labels``: uint8 (N, H, W), 255 = ignore; of several sizes (N,) of such arrays.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, meta: Meta, path: Path, sizes: np.ndarray | None = None):
        self.meta, self.path, self.sizes = meta, path, sizes
        self._images, self._labels = images, labels
        self._begin = None if sizes is None else first_pixels(sizes)

    def __len__(self) -> int:
        return len(self.meta.names)

    name, split, names, classes, palette, fingerprint, pixels, size = (
        property(attrgetter(f"meta.{field}"))
        for field in ("name", "split", "names", "classes", "palette", "fingerprint", "pixels", "size")
    )

    num_classes = property(lambda self: len(self.meta.classes))
    nbytes = property(lambda self: self._images.nbytes + self._labels.nbytes, doc="Bytes of images and labels.")
    images = cached_property(lambda self: self._rows(self._images))
    labels = cached_property(lambda self: self._rows(self._labels))

    def _rows(self, array: np.ndarray) -> np.ndarray:
        if self.sizes is None:
            return array
        rows = np.empty(len(self), object)
        for row, size in enumerate(self.sizes):
            rows[row] = array[self._begin[row] : self._begin[row + 1]].reshape(*size, *array.shape[1:])
        return rows

    def first(self, count: int) -> Packed:
        """The first ``count`` images alone; all of them where there are no more."""
        names = self.names[:count]
        end = len(names) if self.sizes is None else self._begin[len(names)]
        sizes = None if self.sizes is None else self.sizes[: len(names)]
        return Packed(self._images[:end], self._labels[:end], replace(self.meta, names=names), self.path, sizes)

    def take(self, index: Sequence[int]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images uint8 (B, H, W, 3), labels uint8 (B, H, W) and, where images have sizes of their own, those, int64 (B, 2).

        Then H and W are the largest of the batch, and the smaller images end in 0 and ignore at the bottom and right.
        """
        rows = np.asarray(index, dtype=np.int64)
        if self.sizes is None:
            return torch.from_numpy(self._images[rows]), torch.from_numpy(self._labels[rows]), None
        sizes = self.sizes[rows]
        shape = (len(rows), *sizes.max(0))
        images, labels = np.zeros((*shape, 3), np.uint8), np.full(shape, IGNORE, np.uint8)
        for place, (row, (height, width)) in enumerate(zip(rows, sizes)):
            images[place, :height, :width] = self.images[row]
            labels[place, :height, :width] = self.labels[row]
        return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(sizes)

    def class_frequencies(self) -> np.ndarray:
        """Frequency of each class among the labelled (not ignored) pixels, float64 (C,), sums to 1."""
        pixels = label_pixels(self.labels)[: self.num_classes]
        return pixels / max(pixels.sum(), 1)


def pack(
    name: str,
    split: str,
    size: tuple[int, int] | None,
    root: str | Path | None = None,
    packed_dir: str | Path = Path("data/packed"),
    limit: int | None = None,
) -> Packed:
    """The split of a data set at ``size`` (H, W), made if it is not there yet (aspect ratios are not kept).

    Images are resized by antialiased bilinear filtering, labels by the nearest pixel centre; with ``size`` None all keep
    their own. ``limit``: only so many images, evenly spaced over the split (neighbours in a video are alike). One folder
    per content: the data's fingerprint is in its name, so changed files are packed anew and nothing is overwritten. Any
    number of processes may ask at the same time: one packs, on all cores, the others wait; one that was killed begins
    anew. UserError: a file that cannot be used, a full disk, a killed worker (then nothing is
    left behind); an image that is in another split too; labels of train that show fewer than two classes, or of another split
    that show none.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UserError(f"size is (height, width) in pixels, both positive, or None for the images' own: {size}")
    if limit is not None and limit < 1:
        raise UserError(f"limit is a number of images, at least 1, or None for all: {limit}")
    size = None if size is None else (int(size[0]), int(size[1]))
    dataset = create_dataset(name, root, split)
    dataset = dataset if size is None else dataset.at_size(size)
    chosen = _evenly(len(dataset), limit)
    names = tuple(dataset.names[index] for index in chosen)
    meta = Meta(name, split, size, names, tuple(dataset.classes), tuple(dataset.palette), dataset.fingerprint())
    at = "native" if size is None else f"{size[0]}x{size[1]}"
    folder = Path(packed_dir) / f"{name}-{split}-{at}-n{len(chosen)}-v{VERSION}-{meta.fingerprint[:8]}"
    found = _open(folder, meta)
    if found is None:
        with file_lock(folder.with_name(folder.name + ".lock")):
            found = _open(folder, meta)
            if found is None:
                check_overlap(name, root, splits_of(name, root), split)
                found = _make(folder, meta, dataset, chosen)
    if not isinstance(found, Packed):
        return pack(name, split, found, root, packed_dir, limit)
    if split != UNLABELLED:
        _need_classes(found)
    return found


def _need_classes(packed: Packed) -> None:
    """UserError if the labels show fewer classes than that takes: two to learn from, one to score on; looked at until they are found."""
    flat, seen, wanted = packed._labels.reshape(-1), np.zeros(256, bool), 2 if packed.split == "train" else 1
    for start in range(0, len(flat), 1 << 18):
        seen |= np.bincount(flat[start : start + (1 << 18)], minlength=256) > 0
        if seen[:IGNORE].sum() >= wanted:
            return
    shown = next((packed.classes[label] for label in np.flatnonzero(seen[:IGNORE])), None)
    raise UserError(
        f"{packed.name} {packed.split}: its labels show {f'nothing but {shown}' if shown else 'no class at all'}, so there is nothing to "
        f"{'learn' if wanted == 2 else 'score'}; {VALUE_IS_A_CLASS}, and see `segkd data verify {packed.name}`"
    )


def _evenly(n: int, limit: int | None) -> list[int]:
    """``limit`` indices spread over 0..n-1, first and last included; all of them without a limit."""
    return np.linspace(0, n - 1, min(n, limit or n)).round().astype(int).tolist()


def _open(folder: Path, meta: Meta) -> Packed | tuple[int, int] | None:
    """What lies in ``folder``: a pack, the one size at which its images lie elsewhere, or None if it is damaged or absent."""
    try:
        kept = {"pixels": "", **json.loads((folder / "meta.json").read_text())}
        meta = replace(meta, pixels=kept["pixels"])
        if kept != json.loads(json.dumps(asdict(meta))):
            return None
        if meta.size is None and (folder / "size.json").is_file():
            return tuple(json.loads((folder / "size.json").read_text()))
        sizes = np.load(folder / "sizes.npy") if meta.size is None else np.tile(np.int64(meta.size), (len(meta.names), 1))
        images, labels = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("images", "labels"))
    except (OSError, ValueError, TypeError, EOFError):
        return None
    one_size = meta.size is not None
    shape = (len(meta.names), *meta.size) if one_size else (int(first_pixels(sizes)[-1]),)
    if len(sizes) != len(meta.names) or images.shape != (*shape, 3) or labels.shape != shape:
        return None
    return Packed(images, labels, meta, folder, None if one_size else sizes)


def _make(folder: Path, meta: Meta, dataset: Dataset, chosen: list[int]) -> Packed | tuple[int, int]:
    """Write the pack, and say what its masks were taken for; the caller holds the lock. Images of one own size are left to a pack of that size: it is returned."""
    if dataset.form:
        print(f"{meta.name} {meta.split}: {dataset.form}", flush=True)
    native = meta.size is None
    sizes = measure_sizes(dataset, chosen, f"{meta.name} {meta.split}") if native else np.tile(np.int64(meta.size), (len(chosen), 1))
    if native and same_size(sizes):
        folder.mkdir(exist_ok=True)
        (folder / "size.json").write_text(json.dumps(sizes[0].tolist()))
        (folder / "meta.json").write_text(json.dumps(asdict(meta)))
    else:
        write_pack(folder, asdict(meta), dataset, chosen, sizes)
    return _open(folder, meta)
