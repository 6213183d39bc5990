"""Worker processes: a killed parent leaves none behind, an error in one is told, the next call ends with the same numbers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, to_dict
from segkd.runs import find
from segkd.study.execute.executor import execute

DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
LONG = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=3000, batch_size=2, validations=2))


def workers_of(marker: str) -> list[int]:
    """Processes whose environment names this test's folder of runs."""
    found = []
    for folder in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{folder}/environ", "rb") as file:
                if marker.encode() in file.read() and int(folder) != os.getpid():
                    found.append(int(folder))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("interrupted", [False, True])
def test_workers_end_with_their_parent(runs, tmp_path, interrupted):
    """With one that is killed alone, not its group; and by Ctrl-C, which is one line."""
    (tmp_path / "config.json").write_text(json.dumps(to_dict(LONG)))
    command = [sys.executable, "-m", "segkd.cli", "train", str(tmp_path / "config.json")]
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a background shell hands down "ignore"
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear)
    assert wait_until(lambda: (find(LONG).path / "env.json").exists(), 90)
    time.sleep(1)
    if interrupted:
        os.killpg(parent.pid, signal.SIGINT)
        errors = parent.communicate(timeout=60)[1]
        assert parent.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
    else:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not workers_of(str(runs)), 30), "a worker outlived its parent"
    assert not find(LONG).done


def test_two_workers_give_what_one_process_gives(runs, tmp_path, monkeypatch, capsys):
    short = dataclasses.replace(LONG, schedule=Schedule(steps=3, batch_size=2, validations=1))
    configs = [dataclasses.replace(short, method="kd", teacher=short), dataclasses.replace(short, method="cwd", teacher=short)]
    parallel = [r.result["confusion"] for r in execute(configs, ["cpu", "cpu"])]
    assert capsys.readouterr().out.count("done ") == 3
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "alone"))
    assert [r.result["confusion"] for r in execute(configs, ["cpu"])] == parallel
    assert execute(configs)[0].done and capsys.readouterr().out.count("done ") == 3
