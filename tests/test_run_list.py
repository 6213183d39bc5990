"""The table of runs: done, begun, stopped and damaged ones beside each other."""

import json

import pytest

import segkd
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, to_dict
from segkd.run_list import run_list

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
CONFIG = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), Schedule("adamw", steps=2, batch_size=2, validations=1))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def begun(root, seed, steps=()):
    """The folder of a run that got as far as its log says."""
    config = RunConfig(DATA, CONFIG.network, CONFIG.schedule, seed=seed)
    folder = root / config.id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in steps))
    return folder


def test_every_state_has_its_row(root, capsys):
    done = segkd.run(CONFIG)
    half, stopped, damaged = begun(root, 1, (1,)), begun(root, 2), begun(root, 3)
    (stopped / "failure.json").write_text("{}")
    (damaged / "config.json").write_text("{")
    states = dict(zip(run_list()["run"], run_list()["state"]))
    assert states[done.id] == "done" and states[half.name] == "step 1/2"
    assert "segkd replay" in states[stopped.name] and states[damaged.name].startswith("damaged: ")
    row = run_list().set_index("run").loc[done.id]
    assert row["mIoU %"] == pytest.approx(100 * done.result["miou"]) and row["minutes"] > 0
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "1 of 4 done" in out and f"{100 * done.result['miou']:.1f}" in out and "nan" not in out


def test_no_runs_is_said(root, capsys):
    assert main(["runs"]) == 0
    assert "no runs under" in capsys.readouterr().out
