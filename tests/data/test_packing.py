"""Packing by several processes: the same bytes, whole or not at all, nothing left where one is killed or the disk is full."""

import errno
import multiprocessing
import os
import pickle
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from segkd.data import catalog, packing, pool
from segkd.data.readers.camvid import CamVid
from segkd.data.store import pack
from segkd.registry import UserError

COUNT = 96
FORK = multiprocessing.get_context("fork")


class Slow(catalog.Dataset):
    """Images that hold their number; every read adds a line to ``log``, by whatever process."""

    name, classes, palette, splits = "slow", ("road", "sky"), ((1, 2, 3), (4, 5, 6)), ("train",)
    log, delay, dies_at = None, 0.0, None

    def __init__(self, root=None, split="train"):
        super().__init__(split)
        self.names = [f"image{index}" for index in range(COUNT)]

    def read(self, index):
        if index == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.log, "a") as log:
            log.write(f"{index} {os.getpid()}\n")
        time.sleep(self.delay)
        return np.full((8, 8, 3), index, np.uint8), np.eye(8, dtype=np.uint8)

    def fingerprint(self):
        return "0" * 64


@pytest.fixture
def slow(monkeypatch, tmp_path):
    reader = type("Counted", (Slow,), {"log": tmp_path / "log"})
    reader.log.touch()
    monkeypatch.setitem(catalog.DATASETS._items, "slow", reader)
    monkeypatch.setattr(pool, "cores", lambda: 2)
    return reader


def written(folder, count):
    """A CamVid folder of ``count`` small train images."""
    rng = np.random.default_rng(0)
    for part, shape in (("train", (6, 8, 3)), ("trainannot", (6, 8))):
        (folder / "CamVid" / part).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 11, shape, dtype=np.uint8)).save(folder / "CamVid" / part / f"{index:02d}.png")
    return folder


def read_rows(reader):
    """(row, process) of every read."""
    return [tuple(map(int, line.split())) for line in reader.log.read_text().splitlines()]


def folders(place):
    return [path.name for path in place.iterdir() if path.is_dir()]


def check(packed):
    np.testing.assert_array_equal(packed.images[:, 3, 5, 1], np.arange(COUNT))


def test_every_row_is_read_once_by_two_processes(slow, tmp_path):
    slow.delay = 0.005
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path / "packed"))
    rows, processes = zip(*read_rows(slow))
    assert sorted(rows) == list(range(COUNT)) and len(set(processes)) == 2 and os.getpid() not in processes


def test_a_killed_packing_begins_anew_and_its_workers_end(slow, tmp_path):
    slow.delay = 0.02
    process = FORK.Process(target=pack, args=("slow", "train", (8, 8), None, tmp_path))
    process.start()
    while len(read_rows(slow)) < 20:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(folders(tmp_path)) == 1 and folders(tmp_path)[0].endswith(".part")
    slow.delay = 0.0
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))  # waits for the workers, which hold the lock
    assert not list(tmp_path.glob("*.part")) and sorted(row for row, _ in read_rows(slow)[-COUNT:]) == list(range(COUNT))


def test_a_killed_worker_is_one_error_and_leaves_nothing(slow, tmp_path):
    slow.dies_at = COUNT - 20
    with pytest.raises(UserError, match="packing slow train: a worker process was killed.*memory.*again: it begins anew"):
        pack("slow", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)
    slow.dies_at = None
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))


def test_an_error_in_a_worker_is_said_and_leaves_nothing(slow, tmp_path, monkeypatch):
    def fail(self, index):
        raise UserError(f"image{index}.png cannot be read")

    monkeypatch.setattr(slow, "read", fail)
    with pytest.raises(UserError, match="image0.png cannot be read"):
        pack("slow", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)


def limited(place):
    """Pack with a limit on the size of files, in a process of its own; its error goes to ``place``/error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        pack("slow", "train", (64, 64), packed_dir=place)
    except UserError as error:
        (place / "error").write_text(str(error))


def test_no_room_is_said_before_anything_is_read(slow, tmp_path, monkeypatch):
    process = FORK.Process(target=limited, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0 and "packing slow train: no room in" in (tmp_path / "error").read_text()
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match="no room .*: 2 MB are needed, 1 MB are free; make room there or take a smaller size"):
        pack("slow", "train", (64, 64), packed_dir=tmp_path)
    assert not read_rows(slow) and not folders(tmp_path)


def test_other_errors_of_the_disk_are_not_called_full(slow, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(packing.os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="Input/output"):
        pack("slow", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)


def test_what_workers_are_given_can_be_pickled(tmp_path):
    data, sizes = CamVid(written(tmp_path, 2)), np.full((2, 2), [6, 8])
    job = packing.Job(data, (0, 1), sizes, packing.first_pixels(sizes), tmp_path)
    again = pickle.loads(pickle.dumps((packing._write_row, pool._work, pool._start, job)))[-1]
    np.testing.assert_array_equal(again.dataset[1].image, data[1].image)


@pytest.mark.slow
def test_a_fresh_interpreter_does_the_same(tmp_path, monkeypatch):
    """Beside CUDA workers cannot be forked: all that they need goes through pickle."""
    written(tmp_path, 40)
    monkeypatch.setattr(pool, "cores", lambda: 2)
    monkeypatch.setattr(pool, "_context", lambda: multiprocessing.get_context("spawn"))
    packed = pack("camvid", "train", (6, 8), tmp_path, tmp_path / "packed")
    for row, (image, label, name) in enumerate(CamVid(tmp_path)):
        assert packed.names[row] == name
        np.testing.assert_array_equal(packed.images[row], image)
        np.testing.assert_array_equal(packed.labels[row], label)
