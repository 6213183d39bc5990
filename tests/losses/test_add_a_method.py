"""docs/add-a-method.md works as printed: its file passes the general tests and trains, alone and in compositions."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add-a-method.md"
PLUGIN = """
import importlib, sys
import segkd.losses
segkd.losses.__path__.append({folder!r})  # as if the file lay in segkd/losses
importlib.import_module("segkd.losses.zkd")
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.S)


def execute(tmp_path, *command):
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "SEGKD_RUNS": str(tmp_path / "runs")}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_page_adds_a_method(tmp_path):
    method, training, _ = blocks("python")
    assert len(method.splitlines()) < 60
    (tmp_path / "zkd.py").write_text(method)
    (tmp_path / "added.py").write_text(PLUGIN.format(folder=str(tmp_path)))
    (tmp_path / "training.py").write_text("import added\n" + training)
    (command,) = [line.split() for line in blocks("bash")[0].splitlines()]
    out = execute(tmp_path, *command[1:], "-p", "added", "-p", "no:cacheprovider", "-q")
    assert int(re.search(r"(\d+) passed", out)[1]) > 25 and "failed" not in out
    out = execute(tmp_path, str(tmp_path / "training.py"))
    assert [line.split()[0] for line in out.splitlines() if line.split()[-1].startswith("0.")] == ["zkd", "zkd+rdd", "zkd+hwd"]


def test_the_loop_of_ones_own_runs(tmp_path):
    loop = blocks("python")[2]
    assert len(loop.partition("for step")[2].strip().splitlines()) <= 11
    (tmp_path / "loop.py").write_text(loop)
    rows = [line for line in execute(tmp_path, str(tmp_path / "loop.py")).splitlines() if line[0] in "012"]
    assert len(rows) == 3 and all(name in row and "nan" not in row for row in rows for name in ("task", "task_aux", "kd", "skd/pair"))
