"""Packing: a split resized once into memory-mapped uint8 arrays that are there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.data.catalog import Dataset, create_dataset
from segkd.registry import UserError

VERSION = 1  # raise it when the arrays made from the same files change


@dataclass(frozen=True)
class Meta:
    """What lies beside the arrays as meta.json."""

    name: str
    split: str
    size: tuple[int, int]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    fingerprint: str
    version: int = VERSION


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed split, read-only: ``images`` uint8 (N, H, W, 3) in RGB and ``labels`` uint8 (N, H, W), 255 = ignore."""

    images: np.ndarray
    labels: np.ndarray
    meta: Meta
    path: Path

    def __len__(self) -> int:
        return len(self.images)

    @property
    def name(self) -> str:
        return self.meta.name

    @property
    def split(self) -> str:
        return self.meta.split

    @property
    def names(self) -> tuple[str, ...]:
        return self.meta.names

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meta.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return self.meta.palette

    @property
    def num_classes(self) -> int:
        return len(self.meta.classes)

    @property
    def fingerprint(self) -> str:
        return self.meta.fingerprint

    def class_shares(self) -> np.ndarray:
        """Share of each class among the labelled (not ignored) pixels, float64 (C,), sums to 1."""
        pixels = np.bincount(self.labels.ravel(), minlength=256)[: self.num_classes]
        return pixels / max(pixels.sum(), 1)


def pack(
    name: str,
    split: str,
    size: tuple[int, int],
    root: str | Path | None = None,
    packed_dir: str | Path = Path("data/packed"),
    limit: int | None = None,
) -> Packed:
    """The split of a data set at ``size`` (H, W), made if it is not there yet (aspect ratios are not kept).

    Images are resized by antialiased bilinear filtering, labels by the nearest pixel centre. ``limit``: only so many
    images, evenly spaced over the split (neighbours in a video are alike). One folder per content: the data's
    fingerprint is in its name, so changed files are packed anew and nothing is overwritten. Any number of processes may
    ask at the same time: one packs, the others wait; what a killed one left is made again.
    """
    size = _checked(size, limit)
    dataset = create_dataset(name, root, split).at_size(size)
    chosen = _evenly(len(dataset), limit)
    meta = Meta(
        name=name,
        split=split,
        size=size,
        names=tuple(dataset.names[index] for index in chosen),
        classes=tuple(dataset.classes),
        palette=tuple(dataset.palette),
        fingerprint=dataset.fingerprint(),
    )
    label = f"{name}-{split}-{size[0]}x{size[1]}-n{len(chosen)}-v{VERSION}-{meta.fingerprint[:8]}"
    folder = Path(packed_dir) / label
    packed = _open(folder, meta)
    if packed is None:
        with _lock(folder):
            packed = _open(folder, meta) or _make(folder, meta, dataset, chosen)
    return packed


def _checked(size: tuple[int, int], limit: int | None) -> tuple[int, int]:
    """``size`` as two ints; UserError if it or ``limit`` makes no sense."""
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size is (height, width) in pixels, both positive: {size}")
    if limit is not None and limit < 1:
        raise UserError(f"limit is a number of images, at least 1, or None for all: {limit}")
    return int(size[0]), int(size[1])


def _evenly(n: int, limit: int | None) -> list[int]:
    """``limit`` indices spread over 0..n-1, first and last included; all of them without a limit."""
    return np.linspace(0, n - 1, min(n, limit or n)).round().astype(int).tolist()


def _open(folder: Path, meta: Meta) -> Packed | None:
    """What lies in ``folder``, or None if it is not there, damaged, or not what ``meta`` says."""
    try:
        if json.loads((folder / "meta.json").read_text()) != json.loads(json.dumps(asdict(meta))):
            return None
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    shape = (len(meta.names), *meta.size)
    if images.shape != (*shape, 3) or labels.shape != shape:
        return None
    return Packed(images, labels, meta, folder)


def _make(folder: Path, meta: Meta, dataset: Dataset, chosen: list[int]) -> Packed:
    """Write the arrays beside their place and move the whole folder there at once; the caller holds the lock."""
    part = folder.with_name(folder.name + ".part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    shape = (len(chosen), *meta.size)
    images = np.lib.format.open_memmap(part / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3))
    labels = np.lib.format.open_memmap(part / "labels.npy", mode="w+", dtype=np.uint8, shape=shape)
    for row, index in enumerate(_progress(chosen, f"packing {meta.name} {meta.split}")):
        sample = dataset[index]
        images[row] = _resize(sample.image, meta.size, Image.Resampling.BILINEAR)
        labels[row] = _resize(sample.label, meta.size, Image.Resampling.NEAREST)
    images.flush()
    labels.flush()
    (part / "meta.json").write_text(json.dumps(asdict(meta)))
    part.rename(folder)
    return _open(folder, meta)


def _resize(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image or label at ``size`` (H, W); Pillow's bilinear filter widens when shrinking: the antialiasing."""
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize(size[::-1], how))


def _progress(items: list[int], what: str):
    """``items`` with a bar on a terminal, silent elsewhere."""
    from tqdm import tqdm

    return tqdm(items, desc=what, unit="image", disable=None, leave=False)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Held by one process at a time for one folder; the system frees it when the process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
