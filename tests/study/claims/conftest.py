"""For tests of claims: finished runs that have nothing but a result, and measures without networks."""

import json

import numpy as np
import pytest

from segkd.runs import find
from segkd.study.claims import mechanisms
from segkd.study.claims.parts import config_of
from segkd.study.numbers import step_times

CLASSES = ["Sky", "Pole", "Car", "Road"]


@pytest.fixture
def fake(runs, tmp_path, monkeypatch):
    """``fake(study, (cell or row or config, points by seed), ...)``: finished runs. No step is measured by itself."""
    monkeypatch.setattr(step_times, "ALONE", tmp_path / "none.csv")

    def write(study, *cells, iou=(0.5,) * 4, counts=None):
        for cell, values in cells:
            for seed, value in zip(study.seeds, values):
                run = find(config_of(study, cell, seed) if hasattr(cell, "row") else cell)
                run.path.mkdir(parents=True, exist_ok=True)
                result = {"id": run.id, "miou": value / 100, "macc": value / 100, "iou": iou, "classes": CLASSES[: len(iou)]}
                result |= {"num_classes": len(iou), "seconds_per_step": 0.1, "teacher_seconds_per_step": 0.0}
                (run.path / "result.json").write_text(json.dumps(result))
                if counts is not None:
                    np.savez(run.path / "images.npz", counts=counts[seed])

    return write


@pytest.fixture
def uses(monkeypatch):
    """``uses(image, label)``: the points that label-assisted teachers lose without each; by seed a little more."""

    def lost(image=30.0, label=5.0):
        more = lambda run: run.config.seed / 10_000  # noqa: E731
        parts = lambda run: {"drop_image": image / 100, "drop_label": label / 100 + more(run), "kept_by_label": 0.1}  # noqa: E731
        monkeypatch.setattr(mechanisms, "input_scores", parts)

    lost()
    return lost
