"""kill -9 at random moments, also while a checkpoint is written: what is left ends with the bits of a run without."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from segkd.config import RunConfig
from segkd.losses import list_methods
from segkd.runs import Run, find, run, run_cohort
from segkd.train import loop, state
from tests.train.harness import SCHEDULE, STATEFUL, assert_same, student

REST = ("lad+hwd+rdd", *(name for name in list_methods() if name not in ("lad", "rdd", "fakd_cwd")))


def config_of(method: str) -> RunConfig:
    hyper = {"cirkd": {"pixel_size": 500}} if "cirkd" in method else {}  # a checkpoint of 2 MB instead of 60
    return student(method, hyper=hyper)


@pytest.fixture(scope="module")
def processes():
    """Forks, so that a victim starts at once; where there is a GPU, autograd's threads forbid a fork of this process."""
    return multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")


def train(config: RunConfig, folder: str) -> None:
    """A process of its own: the run, with a checkpoint after every step."""
    os.environ["SEGKD_RUNS"] = folder
    loop.CHECKPOINT_SECONDS = -1.0
    torch.set_num_threads(1)
    run(config, "cpu")


def kill_at(config: RunConfig, folder: Path, processes, moment) -> bool:
    """Start the run, kill it once ``moment(seconds)`` is true; False if it was done before."""
    victim = processes.Process(target=train, args=(config, str(folder)))
    victim.start()
    begin = time.monotonic()
    while victim.is_alive() and not moment(time.monotonic() - begin):
        time.sleep(0.0002)  # a write lasts some milliseconds
    victim.kill()  # SIGKILL
    victim.join()
    return victim.exitcode == -signal.SIGKILL


def half_written(folder: Path) -> list[str]:
    return [p.name for p in os.scandir(folder) if p.name.startswith(".checkpoint-")] if folder.exists() else []


def kill_in_a_write(config: RunConfig, folder: Path, processes) -> None:
    """Kill the run until a checkpoint is left half-written beside a whole one, from which it can go on."""
    place = folder / config.id
    for _ in range(20):
        for name in half_written(place):  # of an earlier victim
            (place / name).unlink()
        kill_at(config, folder, processes, lambda seconds: half_written(place) and state.checkpoints(place))
        if half_written(place):
            return
    pytest.fail("never killed within a write")


def assert_same_run(ours: Run, theirs: Run) -> None:
    """Weights, optimiser, queues, statistics, rows of metrics, confusion matrix."""
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes(), name
    one, other = (state.load_checkpoint(r.path) for r in (ours, theirs))
    for part in ("step", "model", "modules", "optimiser", "rows"):
        assert_same(one[part], other[part], part)
    assert ours.result["confusion"] == theirs.result["confusion"] and ours.result["val_best"] == theirs.result["val_best"]


@pytest.mark.parametrize("method", ["fakd_cwd", STATEFUL, *(pytest.param(m, marks=pytest.mark.slow) for m in ("lad", *REST))])
def test_killed_runs_end_with_the_bits_of_one_without_a_stop(method, tmp_path, monkeypatch, processes):
    config, chance = config_of(method), random.Random(method)
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "straight"))
    if config.teacher:
        run(config.teacher, "cpu")
    begin = time.monotonic()
    straight = run(config, "cpu")
    length = time.monotonic() - begin
    killed = tmp_path / "killed"
    monkeypatch.setenv("SEGKD_RUNS", str(killed))
    if config.teacher:
        run(config.teacher, "cpu")
    for _ in range(2):
        moment = chance.uniform(0, 1.5 * length)
        if not kill_at(config, killed, processes, lambda seconds: seconds > moment):
            break
    (killed / config.id / "result.json").unlink(missing_ok=True)  # it may have been done: then it ends once more
    while checkpoints := state.checkpoints(killed / config.id):  # and once more from about half the way
        if int(checkpoints[0].stem[-7:]) <= SCHEDULE.steps // 2:
            break
        checkpoints[0].unlink()
    kill_in_a_write(config, killed, processes)
    again = run(config, "cpu")
    assert not half_written(again.path), "the next process clears what the killed one left"
    assert_same_run(again, straight)
    resumed = [entry["step"] for entry in state.read_json(again.path / "env.json", "")["resumed"]]
    assert resumed and resumed == sorted(resumed) and all(0 < step <= SCHEDULE.steps for step in resumed)
    assert find(config).done


def test_a_cohort_killed_between_two_of_its_checkpoints_ends_alike(tmp_path, monkeypatch, processes):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "straight"))
    config, other = student("fakd_cwd"), student("kd+rdd")
    straight = [run(c, "cpu") for c in (config, other)]
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "killed"))
    killed = run(other, "cpu")  # as if killed after this one's last write, with the other behind
    (killed.path / "result.json").unlink()
    kill_in_a_write(config, tmp_path / "killed", processes)
    for ours, theirs in zip(run_cohort([config, other], "cpu"), straight):
        assert_same_run(ours, theirs)


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbage": lambda data: os.urandom(len(data)),
    "zeros in the second half": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "long tail of garbage": lambda data: data + os.urandom(200_000),
    "one bit": lambda data: data[:-9000] + bytes([data[-9000] ^ 1]) + data[-8999:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_unreadable_checkpoint_is_passed_over(kind, tmp_path):
    tensors = {"a": torch.randn(3000), "b": torch.randn(3000)}
    for step in (3, 4):
        state.save_checkpoint(tmp_path, {"step": step, "model": tensors})
    newest = state.checkpoints(tmp_path)[0]
    assert newest.name == "checkpoint-0000004.pt"
    newest.write_bytes(DAMAGE[kind](newest.read_bytes()))
    with pytest.warns(UserWarning, match="checkpoint-0000004.pt: unreadable checkpoint"):
        assert state.load_checkpoint(tmp_path)["step"] == 3


def test_a_short_tail_does_no_harm_and_none_readable_means_the_start(tmp_path):
    state.save_checkpoint(tmp_path, {"step": 1, "model": {"a": torch.arange(5.0)}})
    path = state.checkpoints(tmp_path)[0]
    path.write_bytes(path.read_bytes() + b"tail")
    assert torch.equal(state.load_checkpoint(tmp_path)["model"]["a"], torch.arange(5.0))
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="unreadable"):
        assert state.load_checkpoint(tmp_path) is None


def test_files_and_their_folder_are_on_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, os.replace
    name = lambda number: os.readlink(f"/proc/self/fd/{number}")  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda n: (calls.append(f"sync {Path(name(n)).name}"), real_sync(n)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    state.save_checkpoint(tmp_path / "run", {"step": 1})
    assert calls == [f"sync .checkpoint-0000001.pt.{os.getpid()}.tmp", "rename", "sync run"]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for step in range(1, 5):
        state.save_checkpoint(tmp_path, {"step": step})
        assert [int(p.stem[-7:]) for p in state.checkpoints(tmp_path)] == [step, step - 1][: min(step, 2)]
