"""What is said of a machine: every line is there, and trouble comes with a remedy."""

import importlib.util
import json
import shutil
from collections import namedtuple

import torch

from segkd import doctor
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.runs import run

Usage = namedtuple("Usage", "total used free")


def found():
    return {(line.what, line.value): line.advice for line in doctor.examine()}


def test_every_question_has_an_answer(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "not" / "yet"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "torch", "device", "precision", "compile", "cores", "memory", "disk", "data", "weights"):
        assert f"\n{word} " in f"\n{out}"
    assert torch.__version__ in out and str(tmp_path / "not" / "yet") in out


def test_trouble_comes_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "gone"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 10**11, 2 * 10**9))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
    lines = {what: (value, advice) for (what, value), advice in found().items()}
    assert lines["disk"][0].startswith("2 GB free") and "SEGKD_RUNS" in lines["disk"][1]
    assert "no such folder" in lines["data"][1]
    assert lines["missing"] == ("peft", "pip install 'segkd[lora]' for DINOv2")
    if not torch.cuda.is_available():
        assert lines["compile"][0] == "no" and "install one" in lines["compile"][1]
        assert "CUDA device" in lines["device"][1]


def test_a_machine_without_git_and_without_a_compiler(runs, monkeypatch, tmp_path, capsys):
    """Also for training: the commit is unknown; compiled training is refused before anything is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert main(["doctor"]) == 0 and "commit     unknown" in capsys.readouterr().out
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"schedule": {"compile": True}}))
    if not torch.cuda.is_available():
        assert main(["train", str(config)]) == 2 and not (tmp_path / "runs").exists()
        assert "schedule.compile needs a C++ compiler ($CXX, or g++), which is not here: install it" in capsys.readouterr().err
    data = DataConfig(size=(48, 64), train_limit=2, eval_limit=1)
    found = run(RunConfig(data, NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=1, batch_size=2, validations=1)))
    assert json.loads((found.path / "env.json").read_text())["commit"] == "unknown"


def test_every_extra_that_is_named_exists():
    import tomllib

    from segkd.config import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for extra, _ in doctor.EXTRAS.values()} <= set(extras)
