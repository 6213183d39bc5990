"""Writing a pack: rows by several processes, kept where one is killed, the disk's room taken first, moved into place whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from PIL import Image

from segkd.data.catalog import Dataset
from segkd.data.pool import in_processes
from segkd.registry import UserError

SYNC_SECONDS = 0.5  # a killed packer loses the work of so long
CHANNELS = {"images.npy": 3, "labels.npy": 1}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DONE = "done"  # in the unfinished folder: a byte a row, 1 once the row is safely on the disk


@dataclass(frozen=True)
class Job:
    """What every worker knows. ``sizes`` int64 (N, 2): (H, W) of each row; ``begin``: see ``first_pixels``.

    Rows follow one another, so where all sizes are equal the bytes are those of a plain array.
    """

    dataset: Dataset
    chosen: tuple[int, ...]
    sizes: np.ndarray
    begin: np.ndarray
    folder: Path

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the array in file ``name``: (N, H, W[, 3]), or flat where sizes differ."""
        pixels = (len(self.sizes), *self.sizes[0]) if same_size(self.sizes) else (self.begin[-1],)
        last = (3,) if CHANNELS[name] == 3 else ()
        return tuple(int(n) for n in (*pixels, *last))


def first_pixels(sizes: np.ndarray) -> np.ndarray:
    """Where each image of ``sizes`` (N, 2) begins when all lie behind one another, and where the last ends: int64 (N + 1,)."""
    return np.concatenate([[0], np.cumsum(sizes.prod(1))]).astype(np.int64)


def same_size(sizes: np.ndarray) -> bool:
    """Whether all rows of (N, 2) are alike."""
    return bool((sizes == sizes[0]).all())


def measure(dataset: Dataset, chosen: Sequence[int], what: str) -> np.ndarray:
    """The (H, W) of the images as they are, int64 (N, 2); from their headers where the reader has ``image_size(index)``."""
    if getattr(dataset, "size", None) is not None:  # drawn, all at one size
        return np.tile(np.int64(dataset.size), (len(chosen), 1))
    sizes = np.zeros((len(chosen), 2), np.int64)
    for row, size in in_processes(_measure, (dataset, tuple(chosen)), range(len(chosen)), f"measuring {what}"):
        sizes[row] = size
    return sizes


def _measure(shared: tuple[Dataset, tuple[int, ...]], row: int) -> tuple[int, int]:
    dataset, chosen = shared
    header = getattr(dataset, "image_size", None)
    return tuple(header(chosen[row])) if header else dataset[chosen[row]].label.shape


def write(folder: Path, meta: dict, dataset: Dataset, chosen: Sequence[int], sizes: np.ndarray) -> None:
    """Make ``folder`` with images.npy, labels.npy, meta.json, and sizes.npy where sizes differ; the caller holds its lock.

    All is written in ``<folder>.part``, which is then renamed. What a killed process left there is taken over, row by
    row. UserError, with nothing left behind: a file that cannot be used, a full disk. A killed worker: the rows stay.
    """
    part = folder.with_name(folder.name + ".part")
    job = Job(dataset, tuple(chosen), sizes, first_pixels(sizes), part)
    what = f"packing {meta['name']} {meta['split']}"
    try:
        with _full_disk_said(job, what):
            todo = _begin(job, meta)
            _fill(job, todo, what)
            _finish(job, folder)
    except (UserError, OSError) as error:
        if not isinstance(error.__cause__, BrokenProcessPool):  # then the same files can be packed further
            shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _full_disk_said(job: Job, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _no_room(job, what, error.strerror) from error


def _no_room(job: Job, what: str, why: str) -> UserError:
    place = job.folder.parent
    need, free = _bytes(job), shutil.disk_usage(place).free
    return UserError(
        f"{what}: no room in {place} ({why}): {need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
        "make room there or take a smaller size"
    )


def _bytes(job: Job) -> int:
    return int(job.begin[-1]) * sum(CHANNELS.values())


def _begin(job: Job, meta: dict) -> list[int]:
    """Rows still to be written. The files take their whole room at once: later there is no way to run out of it."""
    part, text = job.folder, json.dumps(meta)
    if _text(part / "meta.json") == text and (part / DONE).is_file():
        done = np.fromfile(part / DONE, np.uint8)
        if len(done) == len(job.chosen):
            return np.flatnonzero(done == 0).tolist()
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if shutil.disk_usage(part).free < _bytes(job):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for name in CHANNELS:
        _allocate(part / name, job.shape(name))
    if not same_size(job.sizes):
        np.save(part / "sizes.npy", job.sizes)
    (part / "meta.json").write_text(text)
    (part / DONE).write_bytes(bytes(len(job.chosen)))  # last: without it nothing here counts
    return list(range(len(job.chosen)))


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """A .npy file of uint8 in this shape, all its blocks reserved."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        os.posix_fallocate(file.fileno(), 0, file.tell() + int(np.prod(shape)))


def _fill(job: Job, todo: list[int], what: str) -> None:
    """Write the rows ``todo``; a thread brings them to the disk meanwhile, so that its slowness is hidden."""
    files = [os.open(job.folder / name, os.O_RDWR) for name in (*CHANNELS, DONE)]
    written, stop = SimpleQueue(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        syncing = thread.submit(_sync, files, written, stop)
        try:
            for row, _ in in_processes(_write_row, job, todo, what):
                written.put(row)
        finally:
            stop.set()
            syncing.result()
            for file in files:
                os.close(file)


def _sync(files: list[int], written: SimpleQueue, stop: threading.Event) -> None:
    """Until ``stop``: mark rows as done once their bytes are on the disk, in case the power fails."""
    *arrays, done = files
    last = False
    while not last:
        last = stop.wait(SYNC_SECONDS)
        rows = [written.get() for _ in range(written.qsize())]
        if rows:
            for file in arrays:
                os.fdatasync(file)
            for row in rows:
                os.pwrite(done, b"\1", row)
            os.fdatasync(done)


def _write_row(job: Job, row: int) -> None:
    """Read one image and label, bring them to the row's size, and write them to their place."""
    sample = job.dataset[job.chosen[row]]
    size = tuple(int(n) for n in job.sizes[row])
    how = {"images.npy": (sample.image, Image.Resampling.BILINEAR), "labels.npy": (sample.label, Image.Resampling.NEAREST)}
    for name, (array, filtering) in how.items():
        with open(job.folder / name, "rb+", buffering=0) as file:
            file.seek(_head(job.folder / name) + int(job.begin[row]) * CHANNELS[name])
            _write_all(file, memoryview(resize(array, size, filtering)).cast("B"))


@cache
def _head(path: Path) -> int:
    """Bytes before the array in a .npy file."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _write_all(file, data: memoryview) -> None:
    """A file without buffer may take less than all of it, such as when the disk is nearly full."""
    while data:
        data = data[file.write(data) :]


def resize(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image or label at ``size`` (H, W); Pillow's bilinear filter widens when shrinking: the antialiasing."""
    if array.shape[:2] == size:
        return np.ascontiguousarray(array)
    return np.asarray(Image.fromarray(array).resize(size[::-1], how))


def pixel_hash(folder: Path) -> str:
    """SHA-256 over images and labels of a pack, bytes in their order: what a run is trained on, wherever it came from."""
    digest = hashlib.sha256()
    for name in CHANNELS:
        digest.update(np.load(folder / name, mmap_mode="r").reshape(-1).data)
    return digest.hexdigest()


def _finish(job: Job, folder: Path) -> None:
    """The finished folder, its record with the hash of the pixels, moves to its place at once; a damaged one there goes."""
    record = job.folder / "meta.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pixels": pixel_hash(job.folder)}))
    shutil.rmtree(folder, ignore_errors=True)
    job.folder.rename(folder)
    (folder / DONE).unlink()
