"""The table of runs: done, begun, stopped and damaged ones beside each other."""

import json

import pytest

import segkd
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, to_dict
from segkd.run_list import run_list

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
CONFIG = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), Schedule("adamw", steps=2, batch_size=2, validations=1))


def begun(root, seed, steps=()):
    """The folder of a run that got as far as its log says."""
    config = RunConfig(DATA, CONFIG.network, CONFIG.schedule, seed=seed)
    folder = root / config.id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in steps))
    return folder


def test_every_state_has_its_row(runs, capsys):
    done = segkd.run(CONFIG)
    half, stopped, damaged = begun(runs, 1, (1,)), begun(runs, 2), begun(runs, 3)
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


@pytest.mark.parametrize("content, words", [
    (b'[1]\n{"step": 1}\n', "holds a list, not a mapping"), (b"null\n", "holds a NoneType"), (b'{"step": 1}\n{"st', "cannot be read"),
    ('{"step": 1}\n'.encode("utf-16"), "cannot be read"), ('{"kind": "\u00e9"}\n'.encode("latin-1"), "cannot be read"),
])  # fmt: skip
def test_a_damaged_log_is_one_error_and_hides_no_other_run(runs, content, words):
    whole, broken = begun(runs, 1, (1,)), begun(runs, 2)
    (broken / "metrics.jsonl").write_bytes(content)
    states = dict(zip(run_list()["run"], run_list()["state"]))
    assert states[whole.name] == "step 1/2"
    assert states[broken.name].startswith("damaged: ") and words in states[broken.name] and "delete the run's folder" in states[broken.name]


def test_no_runs_is_said(runs, capsys):
    assert main(["runs"]) == 0
    assert "no runs under" in capsys.readouterr().out
