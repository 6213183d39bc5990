"""Planted faults: each gives one clear line, nothing that was there is lost, and the run still ends with the same bits."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.cli import main
from segkd.config import DataConfig, RunConfig
from segkd.registry import UserError
from segkd.runs import Run, find, load_run, run
from segkd.study.execute.executor import execute
from segkd.train import loop, state
from tests.train import harness
from tests.train.harness import Stop, scheduled, stop_at, weights

PLAIN = scheduled(harness.PLAIN, validations=1)
TEACHER = scheduled(PLAIN, steps=2)
STUDENT = dataclasses.replace(PLAIN, method="cwd", teacher=TEACHER)
forks = pytest.mark.skipif(torch.cuda.is_available(), reason="autograd's GPU threads forbid a fork of this process")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The weights of each run without any fault, by id."""
    folder, known = tmp_path_factory.mktemp("straight"), {}

    def wanted(config: RunConfig) -> bytes:
        if config.id not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SEGKD_RUNS", str(folder))
                known[config.id] = weights(run(config, "cpu"))
        return known[config.id]

    return wanted


def stopped(config: RunConfig, step: int = 3) -> Run:
    """The run as a process left it that ended after ``step``; its checkpoint is of the step before."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
        run(config, "cpu", stop_at(step, config.id))
    return find(config)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}


def ends_alike(config: RunConfig, straight) -> None:
    assert weights(run(config, "cpu")) == straight(config)


def message_in_a_fork(config: RunConfig, before) -> str:
    """What the UserError of the run says in a process of its own, where ``before()`` was called first."""

    def child(pipe) -> None:
        before()
        torch.set_num_threads(1)
        loop.CHECKPOINT_SECONDS = -1.0
        try:
            pipe.send(str(run(config, "cpu").path))
        except UserError as error:
            pipe.send(f"error: {error}")

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


@forks
def test_1_a_full_disk(straight):
    found = stopped(PLAIN)
    before = files(found.path)
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731 - a checkpoint has 3 MB
    said = message_in_a_fork(PLAIN, full)
    assert said.startswith("error: ") and ": cannot be written (File too large)" in said
    assert files(found.path) == before
    ends_alike(PLAIN, straight)


@forks
@pytest.mark.parametrize("begun", [False, True])
def test_2_a_folder_that_may_not_be_written(runs, straight, begun):
    folder = stopped(PLAIN).path if begun else runs
    folder.mkdir(exist_ok=True, parents=True)
    for name in [folder, *folder.iterdir()]:
        name.chmod(0o555 if name.is_dir() else 0o444)
    runs.parent.chmod(0o755)
    for parent in runs.parents:  # pytest's own folders are closed to others
        if parent.name.startswith(("pytest-", "popen-", "test_")):
            parent.chmod(0o755)

    def nobody() -> None:
        if os.geteuid() == 0:  # root may write everywhere
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)

    said = message_in_a_fork(PLAIN, nobody)
    assert said.startswith("error: ") and f"{runs / PLAIN.id}: cannot be written (Permission denied)" in said
    for name in [folder, *folder.iterdir()]:
        name.chmod(0o755)
    ends_alike(PLAIN, straight)


def test_3_a_killed_worker_process(straight):
    other = dataclasses.replace(scheduled(PLAIN, steps=3000), seed=1)
    stopped(PLAIN)

    def kill() -> None:
        while not (find(other).path / "env.json").exists():
            time.sleep(0.05)
        [process.kill() for process in multiprocessing.active_children()]

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match="a worker process was killed .*the same command goes on") as caught:
        execute([PLAIN, other], ["cpu", "cpu"])
    assert other.id in str(caught.value) and "\n" not in str(caught.value)
    assert find(PLAIN).done or state.checkpoints(find(PLAIN).path)
    ends_alike(PLAIN, straight)
    assert not find(other).done


@forks
def test_4_two_processes_on_one_run(straight, capfd):
    def slow(run_id: str, row: dict[str, float]) -> None:
        time.sleep(1.5 if row["step"] == 3 else 0)  # until the other has come

    process = multiprocessing.get_context("fork").Process(target=run, args=(PLAIN, "cpu", slow))
    process.start()
    while not (find(PLAIN).path / "config.json").exists():
        time.sleep(0.01)
    second = run(PLAIN, "cpu")  # returns what the first made
    process.join()
    said = capfd.readouterr().err.splitlines()
    waiting = [line for line in said if "waiting" in line]
    assert len(waiting) == 1 and waiting[0].startswith(f"run {PLAIN.id}: process {process.pid} on ")
    assert process.exitcode == 0 and second.done and len(state.checkpoints(second.path)) == 1
    assert state.load_checkpoint(second.path)["begun"][0]["step"] == 0
    assert weights(second) == straight(PLAIN)


@pytest.mark.parametrize("damage", ['{"miou": 0.', "", "[1, 2]", "\x00\xff"])
def test_5_a_damaged_result(damage, straight, capsys):
    found = run(PLAIN, "cpu")
    confusion = found.result["confusion"]
    (found.path / "result.json").write_text(damage)
    with pytest.raises(UserError, match=r"result.json: .*; delete the file: its run then scores its last checkpoint again"):
        find(PLAIN).result
    assert main(["runs"]) == 0 and f"{PLAIN.id}  damaged: " in capsys.readouterr().out
    (found.path / "result.json").unlink()
    ends_alike(PLAIN, straight)
    assert find(PLAIN).result["confusion"] == confusion


def camvid(folder: Path) -> Path:
    """A small set of files in CamVid's layout, the same at every call."""
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(4):
            for kind, array in (("", draw.integers(0, 256, (48, 64, 3))), ("annot", draw.integers(0, 11, (48, 64)))):
                (folder / f"{split}{kind}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(folder / f"{split}{kind}" / f"{index}.png")
    return folder


def test_6_data_that_goes_missing_or_changes_between_two_starts(tmp_path, monkeypatch, straight):
    config = dataclasses.replace(PLAIN, data=DataConfig("camvid", (48, 64)))
    data = camvid(tmp_path / "data" / "camvid")
    monkeypatch.setenv("SEGKD_DATA", str(data.parent))
    before = files(stopped(config).path)
    (data / "train" / "2.png").rename(tmp_path / "2.png")
    with pytest.raises(UserError, match="camvid.train .*'2'"):
        run(config, "cpu")
    shutil.copy(data / "train" / "1.png", data / "train" / "2.png")
    with pytest.raises(UserError, match="its training images are not those of its first 2 steps"):
        run(config, "cpu")
    assert files(find(config).path) == before
    (tmp_path / "2.png").replace(data / "train" / "2.png")
    ends_alike(config, straight)


def test_7_a_damaged_config(straight, capsys):
    found = stopped(PLAIN)
    before = files(found.path)
    (found.path / "config.json").write_text('{"data": ')
    for start in (lambda: run(PLAIN, "cpu"), lambda: load_run(PLAIN.id)):
        with pytest.raises(UserError, match="config.json: cannot be read .*delete"):
            start()
    assert main(["runs"]) == 0 and "damaged" in capsys.readouterr().out
    (found.path / "config.json").unlink()
    ends_alike(PLAIN, straight)
    assert files(found.path)["config.json"] == before["config.json"]


def test_8_the_root_of_runs_is_a_file(runs):
    runs.write_text("precious")
    with pytest.raises(UserError, match=f"{PLAIN.id}: cannot be written"):
        run(PLAIN, "cpu")
    assert runs.read_text() == "precious" and main(["runs"]) == 0


@pytest.mark.parametrize("when", ["while the student trains", "between two starts"])
def test_9_a_teacher_deleted_half_way(when, straight):
    if when == "between two starts":
        stopped(STUDENT)
        shutil.rmtree(find(TEACHER).path)
        ends_alike(STUDENT, straight)  # the teacher is trained again, to the same bits
    else:

        def delete(run_id: str, row: dict[str, float]) -> None:
            if (run_id, row["step"]) == (STUDENT.id, 3):
                shutil.rmtree(find(TEACHER).path)

        found = run(STUDENT, "cpu", delete)
        assert not find(TEACHER).path.exists() and found.result["origin"]["teacher"]["run"] == TEACHER.id
        ends_alike(STUDENT, straight)


def test_9_a_teacher_whose_weights_are_gone_or_changed(straight):
    found, path = stopped(STUDENT), find(TEACHER).path / "model.safetensors"
    before, whole = files(found.path), path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="model.safetensors: not the weights .*delete result.json beside it"):
        run(STUDENT, "cpu")
    path.write_bytes(whole[:-1000] + bytes(1000))
    with pytest.raises(UserError, match="weights of its teacher are not those of its first 2 steps"):
        run(STUDENT, "cpu")
    path.write_bytes(whole[:5000])
    with pytest.raises(UserError, match="not the weights of this run"):
        run(STUDENT, "cpu")
    assert files(found.path) == before
    (path.parent / "result.json").unlink()  # as the message says
    ends_alike(STUDENT, straight)


def test_10_a_folder_of_another_config(straight):
    found = stopped(PLAIN)
    before = files(found.path)
    values = json.loads(before["config.json"])
    values["schedule"]["lr"], values["seed"] = 0.5, 7
    (found.path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="schedule.lr is 0.5 instead of 0.02, seed is 7 instead of 0; move that folder away"):
        run(PLAIN, "cpu")
    with pytest.raises(UserError, match="its config.json is that of run scenes-.*-s7-"):
        load_run(PLAIN.id)
    (found.path / "config.json").write_bytes(before["config.json"])
    assert files(found.path) == before
    ends_alike(PLAIN, straight)


def test_11_a_checkpoint_of_other_code(straight):
    found = stopped(PLAIN)
    older, newest = reversed(state.checkpoints(found.path))
    kept = older.read_bytes(), newest.read_bytes()
    contents = state.load_checkpoint(found.path)
    contents["model"] = {f"renamed.{name}": value for name, value in contents["model"].items()}
    torch.save(contents, newest)
    with pytest.raises(UserError, match="its checkpoint does not fit this version of the code .*env.json"):
        run(PLAIN, "cpu")
    assert older.read_bytes() == kept[0]
    newest.write_bytes(kept[1])
    ends_alike(PLAIN, straight)
