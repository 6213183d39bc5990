"""torchrun on two processes: one run, whole files, and after a process is killed the bits of a run without a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, to_dict
from segkd.runs import find, run
from segkd.train.state import checkpoints, load_checkpoint

DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=5)
TEACHER = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.1875), Schedule(steps=3, batch_size=3, lr=0.01, validations=1))
CONFIG = RunConfig(
    DATA, NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=12, batch_size=3, lr=0.01, validations=2),
    method="fakd_cwd+mgd", teacher=TEACHER,
)  # fmt: skip
LAUNCHER = """
import sys, time
from segkd.cli import main
from segkd.train import loop
before = loop._cohort_step
def slow(*arguments):
    time.sleep({pause})
    before(*arguments)
loop._cohort_step = slow
sys.exit(main())
"""


def torchrun(folder: Path, processes: int, restarts: int = 0, pause: float = 0.0) -> subprocess.Popen:
    """`segkd train` by torchrun, with a checkpoint after every step and a rest before it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    (folder / "launcher.py").write_text(LAUNCHER.format(pause=pause))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launch += [f"--max-restarts={restarts}", "--monitor-interval=0.2", str(folder / "launcher.py"), "train", str(folder / "config.json")]
    environment = {**os.environ, "SEGKD_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["SEGKD_CHECKPOINT_SECONDS"] = "1e-9"  # after every step
    return subprocess.Popen(launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return output


def members(folder: Path) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            values = dict(v.split("=", 1) for v in Path(f"/proc/{name}/environ").read_text().split("\0") if "=" in v)
        except OSError:
            continue
        if values.get("SEGKD_RUNS") == str(folder / "runs") and "RANK" in values:
            found[int(values["RANK"])] = int(name)
    return found


def weights(folder: Path, monkeypatch) -> dict[str, torch.Tensor]:
    monkeypatch.setenv("SEGKD_RUNS", str(folder / "runs"))
    return find(CONFIG).load_model().state_dict()


@pytest.mark.slow
def test_two_processes_train_one_run_and_a_killed_one_costs_nothing(tmp_path, monkeypatch):
    straight = tmp_path / "straight"
    output = finish(torchrun(straight, 2))
    assert output.count("mIoU") == 3, output  # two runs are done, the first process says it, and once more at the end
    two = weights(straight, monkeypatch)
    environment = json.loads((find(CONFIG).path / "env.json").read_text())
    assert environment["processes"] == 2 and environment["resumed"] == []

    rows = find(TEACHER).metrics()
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "alone"))
    for ours, theirs in zip(run(TEACHER, "cpu").metrics(), rows):  # rounding grows from step to step: see test_processes.py
        assert ours.keys() == theirs.keys()
        if ours["kind"] == "train":
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5 if ours["step"] == 1 else 1e-2)

    killed = tmp_path / "killed"
    process = torchrun(killed, 2, restarts=2, pause=0.4)
    place = killed / "runs" / CONFIG.id
    deadline = time.monotonic() + 120
    while not (len(checkpoints(place)) and int(checkpoints(place)[0].stem[-7:]) >= 4):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(members(killed)[1], signal.SIGKILL)
    finish(process)
    again = weights(killed, monkeypatch)
    resumed = [entry["step"] for entry in json.loads((place / "env.json").read_text())["resumed"]]
    assert len(resumed) == 1 and 4 <= resumed[0] < CONFIG.schedule.steps
    assert all(torch.equal(again[name], two[name]) for name in two)
    ours, theirs = (load_checkpoint(folder / "runs" / CONFIG.id) for folder in (killed, straight))
    assert ours["rows"] == theirs["rows"]
    assert (place / "metrics.jsonl").read_bytes() == (straight / "runs" / CONFIG.id / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, monkeypatch):
    folder = tmp_path / "more"
    monkeypatch.setenv("SEGKD_RUNS", str(folder / "runs"))
    process = torchrun(folder, 1, pause=0.4)
    place, deadline = folder / "runs" / CONFIG.id, time.monotonic() + 120
    while not checkpoints(place):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.wait(60)
    finish(torchrun(folder, 2))
    entries = json.loads((place / "env.json").read_text())
    assert entries["processes"] == 1 and [e["processes"] for e in entries["resumed"]] == [2]
    assert find(CONFIG).done
