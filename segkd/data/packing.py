"""Writing a pack: rows by several processes, the disk's room taken first, moved into place whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.data.catalog import Dataset
from segkd.data.pool import in_processes
from segkd.registry import FULL, UserError

ARRAYS = {"images.npy": (3,), "labels.npy": ()}  # file -> shape of a pixel


@dataclass(frozen=True)
class PackJob:
    """What every worker knows. ``sizes`` int64 (N, 2): (H, W) of each row; ``begin``: see ``first_pixels``."""

    dataset: Dataset
    chosen: tuple[int, ...]
    sizes: np.ndarray
    begin: np.ndarray
    folder: Path


def first_pixels(sizes: np.ndarray) -> np.ndarray:
    """Where each image of ``sizes`` (N, 2) begins when all lie behind one another, and where the last ends: int64 (N + 1,)."""
    return np.concatenate([[0], np.cumsum(sizes.prod(1))]).astype(np.int64)


def same_size(sizes: np.ndarray) -> bool:
    """Whether all rows of (N, 2) are alike."""
    return bool((sizes == sizes[0]).all())


def measure_sizes(dataset: Dataset, chosen: Sequence[int], what: str) -> np.ndarray:
    """The (H, W) of the images as they are, int64 (N, 2)."""
    if dataset.size is not None:  # drawn, all at one size
        return np.tile(np.int64(dataset.size), (len(chosen), 1))
    return np.array(list(in_processes(_measure, (dataset, tuple(chosen)), len(chosen), f"measuring {what}")), np.int64)


def _measure(shared: tuple[Dataset, tuple[int, ...]], row: int) -> tuple[int, int]:
    dataset, chosen = shared
    return dataset.image_size(chosen[row])


def write_pack(folder: Path, meta: dict, dataset: Dataset, chosen: Sequence[int], sizes: np.ndarray) -> None:
    """Make ``folder`` with images.npy, labels.npy, meta.json, and sizes.npy where sizes differ; the caller holds its lock.

    All is written in ``<folder>.part``, which is then renamed; what a killed process left there is thrown away. UserError,
    with nothing left behind: a file that cannot be used, a full disk, a killed worker.
    """
    part = folder.with_name(folder.name + ".part")
    job = PackJob(dataset, tuple(chosen), sizes, first_pixels(sizes), part)
    what = f"packing {meta['name']} {meta['split']}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _allocate(job)
        for _ in in_processes(_write_row, job, len(chosen), what):
            pass
        (part / "meta.json").write_text(json.dumps(meta | {"pixels": pixel_hash(part)}))
        for path in part.iterdir():  # on the disk before the name says so, in case the power fails
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        part.rename(folder)
    except OSError as error:
        if error.errno not in FULL:
            raise
        need, free = 4 * int(job.begin[-1]), shutil.disk_usage(folder.parent).free
        room = f"{need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; make room there or take a smaller size"
        raise UserError(f"{what}: no room in {folder.parent} ({error.strerror}): {room}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _allocate(job: PackJob) -> None:
    """The arrays, (N, H, W[, 3]) or flat where sizes differ, with all their room at once: later there is none to run out of."""
    job.folder.mkdir(parents=True)
    if shutil.disk_usage(job.folder).free < 4 * job.begin[-1]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    pixels = (len(job.sizes), *job.sizes[0]) if same_size(job.sizes) else (job.begin[-1],)
    for name, last in ARRAYS.items():
        path = job.folder / name
        np.lib.format.open_memmap(path, "w+", np.uint8, tuple(int(n) for n in (*pixels, *last)))
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    if not same_size(job.sizes):
        np.save(job.folder / "sizes.npy", job.sizes)


def _write_row(job: PackJob, row: int) -> None:
    """Read one image and label, bring them to the row's size, and write them to their place."""
    sample = job.dataset[job.chosen[row]]
    size = tuple(int(n) for n in job.sizes[row])
    filters = (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    for (name, last), array, how in zip(ARRAYS.items(), sample, filters):
        whole = np.lib.format.open_memmap(job.folder / name, "r+").reshape(-1, *last)
        whole[job.begin[row] : job.begin[row + 1]] = resize(array, size, how).reshape(-1, *last)


def resize(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image or label at ``size`` (H, W); Pillow's bilinear filter widens when shrinking: the antialiasing."""
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize(size[::-1], how))


def pixel_hash(folder: Path) -> str:
    """SHA-256 over images and labels of a pack, bytes in their order: what a run is trained on, wherever it came from."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(np.load(folder / name, mmap_mode="r").reshape(-1).data)
    return digest.hexdigest()
