"""Packing by several processes: the same bytes, only the rest after a kill, nothing left where the disk is full."""

import errno
import json
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

    name, classes, palette, splits = "slow", ("road",), ((1, 2, 3),), ("train",)
    log, delay, dies_at = None, 0.0, None

    def __init__(self, root=None, split="train"):
        super().__init__(split)
        self.names = [f"image{index}" for index in range(COUNT)]

    def read(self, index):
        if index == self.dies_at and not self.log.with_name("died").exists():
            self.log.with_name("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for name, number in (("log", index), ("processes", os.getpid())):
            with open(self.log.with_name(name), "a") as log:
                log.write(f"{number}\n")
        time.sleep(self.delay)
        return np.full((8, 8, 3), index, np.uint8), np.zeros((8, 8), np.uint8)

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
    return [int(line) for line in reader.log.read_text().split()]


def folders(place):
    return [path.name for path in place.iterdir() if path.is_dir()]


def check(packed):
    np.testing.assert_array_equal(packed.images[:, 3, 5, 1], np.arange(COUNT))


def test_every_row_is_read_once_by_two_processes(slow, tmp_path):
    slow.delay = 0.005
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path / "packed"))
    assert sorted(read_rows(slow)) == list(range(COUNT))
    processes = set(slow.log.with_name("processes").read_text().split())
    assert len(processes) == 2 and str(os.getpid()) not in processes


def start_packing(place):
    process = FORK.Process(target=pack, args=("slow", "train", (8, 8), None, place))
    process.start()
    return process


def wait_for(what):
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_after_a_kill_only_the_rest_is_read(slow, tmp_path, monkeypatch):
    slow.delay = 0.02
    monkeypatch.setattr(packing, "SYNC_SECONDS", 0.02)
    process = start_packing(tmp_path)
    done = lambda: next(iter(tmp_path.glob("*.part/done")), None)  # noqa: E731
    wait_for(lambda: done() and sum(done().read_bytes()) >= 20)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = np.flatnonzero(np.frombuffer(done().read_bytes(), np.uint8))
    assert 20 <= len(kept) < COUNT
    slow.delay = 0.0
    with open(next(tmp_path.glob("*.lock")), "w") as lock:  # the workers hold it until they see that they are alone
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        before = len(read_rows(slow))
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))
    assert sorted(read_rows(slow)[before:]) == sorted(set(range(COUNT)) - set(kept.tolist()))
    assert not list(tmp_path.glob("*.part"))


def test_what_is_left_of_another_content_is_not_taken_over(slow, tmp_path):
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))
    folder = tmp_path / folders(tmp_path)[0]
    part = folder.rename(folder.with_name(folder.name + ".part"))
    (part / "done").write_bytes(b"\1" * COUNT)
    (part / "images.npy").write_bytes(b"\0" * (part / "images.npy").stat().st_size)
    meta = json.loads((part / "meta.json").read_text())
    (part / "meta.json").write_text(json.dumps(meta | {"fingerprint": "f" * 64}))
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))


def test_a_killed_worker_is_one_error_and_its_rows_are_kept(slow, tmp_path):
    slow.dies_at = COUNT - 20
    with pytest.raises(UserError, match="packing slow train: a worker process was killed.*memory.*same command again"):
        pack("slow", "train", (8, 8), packed_dir=tmp_path)
    before = len(read_rows(slow))
    check(pack("slow", "train", (8, 8), packed_dir=tmp_path))
    assert 0 < len(read_rows(slow)) - before < COUNT


def test_an_error_in_a_worker_is_said_and_leaves_nothing(slow, tmp_path, monkeypatch):
    def fail(self, index):
        raise UserError(f"image{index}.png cannot be read")

    monkeypatch.setattr(slow, "read", fail)
    with pytest.raises(UserError, match=r"image\d+.png cannot be read"):
        pack("slow", "train", (8, 8), packed_dir=tmp_path)
    assert not folders(tmp_path)


def limited(place, bytes_a_file, reserve):
    """Pack with a limit on the size of files, in a process of its own; its error goes to ``place``/error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, bytes_a_file))
    if not reserve:  # as on a file system that cannot reserve: then it is a write in the middle that fails
        packing.os.posix_fallocate = lambda *_: None
    try:
        pack("slow", "train", (64, 64), packed_dir=place)
    except UserError as error:
        (place / "error").write_text(str(error))


@pytest.mark.parametrize("reserve", [True, False])
def test_a_file_that_cannot_grow_is_said_and_leaves_nothing(slow, tmp_path, reserve):
    place = tmp_path / "packed"
    process = FORK.Process(target=limited, args=(place, 400_000, reserve))
    process.start()
    process.join()
    assert process.exitcode == 0 and not folders(place)
    assert "packing slow train: no room in" in (place / "error").read_text()
    assert "2 MB are needed" in (place / "error").read_text() and (len(read_rows(slow)) > 0) != reserve


def test_too_little_room_is_said_before_anything_is_read(slow, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage)
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
    data = CamVid(written(tmp_path, 2))
    job = packing.Job(data, (0, 1), np.full((2, 2), [6, 8]), packing.first_pixels(np.full((2, 2), [6, 8])), tmp_path)
    again = pickle.loads(pickle.dumps((packing._write_row, pool._chunk, pool._start, job)))[-1]
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


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(pool, "LINE_SECONDS", 0.0)
    assert [row for row, _ in pool.in_processes(lambda shared, row: shared * row, 2, range(3), "packing x")] == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("packing x: 1 of 3 images, 0:0") and lines[0].endswith(" left")
