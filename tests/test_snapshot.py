"""What must not move while code does: the ids of all runs, the tensors of all networks, three runs with state of their own.

``python tests/test_snapshot.py`` writes ``tests/snapshot.json`` anew: only where a change is meant, and said in its commit.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segkd import runs
from segkd.models import create_model, list_models
from segkd.study.numbers.study import open_study
from segkd.study.tables.papers import COMPARISON, PAPERS
from segkd.study.tables.profiles import PROFILES

KEPT = Path(__file__).with_name("snapshot.json")
WITH_STATE = ("CIRKD", "SKD", "FAKD")  # a queue; a discriminator with its own optimiser; class statistics


def digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def ids(profile: str) -> dict[str, str]:
    """Hash of the ids behind each table of each paper: "quick/camvid/all/main"."""
    found = {}
    for dataset in ("scenes", "camvid", "cityscapes"):
        for paper in (*PAPERS, COMPARISON):
            study = open_study(paper, profile, dataset)
            for table in study.all_tables:
                lines = [f"{row.label} {study.config(row, seed).id}" for row in study.rows(table) for seed in (0, 1)]
                found[f"{profile}/{dataset}/{paper}/{table}"] = digest(lines)
    return found


def tensors(name: str) -> str:
    """Hash of names, shapes and types of a network's state dict, in order; nothing is allocated."""
    with torch.device("meta"):
        model = create_model(*name.split("/"), encoder_weights=None, classes=11)
    return digest(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in model.state_dict().items())


def trained(label: str) -> list[float]:
    """Scores and losses of a `smoke` run in float64, teacher from scratch: the same digits on any x86-64 CPU."""
    study = open_study("all", "smoke", "scenes")
    row = next(r for t in study.all_tables for r in study.rows(t) if r.label == label)
    config = study.config(row, 0)
    exact = replace(config.schedule, precision="float64")
    teacher = replace(config.teacher, schedule=replace(config.teacher.schedule, precision="float64"))
    found = runs.run(replace(config, schedule=exact, teacher=teacher), "cpu")
    return [float(f"{m[key]:.6g}") for m in found.metrics() for key in ("miou", "loss") if key in m]


def snapshot() -> dict:
    found = {"ids": {}, "tensors": {name: tensors(name) for name in list_models()}}
    for profile in PROFILES:
        found["ids"].update(ids(profile))
    return found | {"trained": {label: trained(label) for label in WITH_STATE}}


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(KEPT.read_text())


@pytest.mark.parametrize("profile", PROFILES)
def test_ids_of_runs(kept, profile):
    found = ids(profile)
    expected = {key: value for key, value in kept["ids"].items() if key.startswith(f"{profile}/")}
    assert found == expected


def test_tensors_of_networks(kept):
    assert {name: tensors(name) for name in list_models()} == kept["tensors"]


@pytest.mark.parametrize("label", WITH_STATE)
def test_runs_with_state(kept, label, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    assert trained(label) == kept["trained"][label]


if __name__ == "__main__":
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGKD_RUNS"] = folder
        KEPT.write_text(json.dumps(snapshot(), indent=0) + "\n")
