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

from segkd.data import packing, pool
from segkd.data.readers.camvid import CamVid
from segkd.data.store import pack
from segkd.registry import UserError

COUNT = 96
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def slow(counted, monkeypatch):
    counted.count = COUNT
    monkeypatch.setattr(pool, "cores", lambda: 2)
    return counted


def folders(place):
    return [path.name for path in place.iterdir() if path.is_dir()]


def throwing(error):
    def throw(*_):
        raise error

    return throw


def check(packed):
    np.testing.assert_array_equal(packed.images[:, 6, 7, 1], 40 + np.arange(COUNT))


def test_every_row_is_read_once_by_two_processes(slow, tmp_path):
    slow.delay = 0.005
    check(pack("counted", "train", (8, 8), packed_dir=tmp_path / "packed"))
    rows, processes = zip(*slow.reads())
    assert sorted(rows) == list(range(COUNT)) and len(set(processes)) == 2 and os.getpid() not in processes


def test_a_killed_packing_begins_anew_and_its_workers_end(slow, tmp_path):
    slow.delay = 0.02
    process = FORK.Process(target=pack, args=("counted", "train", (8, 8), None, tmp_path))
    process.start()
    while len(slow.reads()) < 20:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(folders(tmp_path)) == 1 and folders(tmp_path)[0].endswith(".part")
    slow.delay = 0.0
    check(pack("counted", "train", (8, 8), packed_dir=tmp_path))  # waits for the workers, which hold the lock
    assert not list(tmp_path.glob("*.part")) and sorted(row for row, _ in slow.reads()[-COUNT:]) == list(range(COUNT))


def test_a_killed_worker_is_one_error_and_leaves_nothing(slow, tmp_path):
    slow.dies_at = COUNT - 20
    with pytest.raises(UserError, match="packing counted train: a worker process was killed.*memory.*again: it begins anew"):
        pack("counted", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)
    slow.dies_at = None
    check(pack("counted", "train", (8, 8), packed_dir=tmp_path))


def test_an_error_in_a_worker_is_said_and_leaves_nothing(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(slow, "read", throwing(UserError("image0.png cannot be read")))
    with pytest.raises(UserError, match="image0.png cannot be read"):
        pack("counted", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)


def limited(place):
    """Pack with a limit on the size of files, in a process of its own; its error goes to ``place``/error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        pack("counted", "train", (64, 64), packed_dir=place)
    except UserError as error:
        (place / "error").write_text(str(error))


def test_no_room_is_said_before_anything_is_read(slow, tmp_path, monkeypatch):
    process = FORK.Process(target=limited, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0 and "packing counted train: no room in" in (tmp_path / "error").read_text()
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match="no room .*: 2 MB are needed, 1 MB are free; make room there or take a smaller size"):
        pack("counted", "train", (64, 64), packed_dir=tmp_path)
    assert not slow.reads() and not folders(tmp_path)


def test_other_errors_of_the_disk_are_not_called_full(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(packing.os, "posix_fallocate", throwing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        pack("counted", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)


def test_what_workers_are_given_can_be_pickled(kit, tmp_path):
    kit.sets["camvid"](tmp_path)
    data, sizes = CamVid(tmp_path), np.full((2, 2), kit.SIZE)
    job = packing.PackJob(data, (0, 1), sizes, packing.first_pixels(sizes), tmp_path)
    again = pickle.loads(pickle.dumps((packing._write_row, pool._work, pool._start, job)))[-1]
    np.testing.assert_array_equal(again.dataset[1].image, data[1].image)


@pytest.mark.slow
def test_a_fresh_interpreter_does_the_same(kit, tmp_path, monkeypatch):
    """Beside CUDA workers cannot be forked: all that they need goes through pickle."""
    kit.sets["camvid"](tmp_path, [f"{number:02d}" for number in range(40)])
    monkeypatch.setattr(pool, "cores", lambda: 2)
    monkeypatch.setattr(pool, "_context", lambda: multiprocessing.get_context("spawn"))
    packed = pack("camvid", "train", kit.SIZE, tmp_path, tmp_path / "packed")
    for row, (image, label, name) in enumerate(CamVid(tmp_path)):
        assert packed.names[row] == name
        np.testing.assert_array_equal(packed.images[row], image)
        np.testing.assert_array_equal(packed.labels[row], label)
