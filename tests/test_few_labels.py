"""The experiment with few labels: its block in docs/your-own-data.md is that of its CSV; differences are paired by seed."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from segkd.data import create_dataset

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "few_labels.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("few_labels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_csv_holds(script):
    between = script.PAGE.read_text().split(script.BEGIN + "\n")[1].split(script.END)[0]
    assert between == script.block()


def test_differences_are_those_of_the_same_seed(script, tmp_path):
    scores = {"cwd": (0.31, 0.45, 0.53), script.TRAINED: (0.30, 0.42, 0.51)}  # +1, +3, +2: 2 ± 4.303 * 1 / sqrt(3)
    rows = [{"seed": s, "labels": n, "row": row, "miou": v, "run": "x"} for row, vs in scores.items() for s, v in enumerate(vs) for n in (20, 50)]
    pd.DataFrame(rows[:-1]).to_csv(tmp_path / "x.csv", index=False)  # one seed is not there yet at 50 labels
    text = script.block(tmp_path / "x.csv")
    assert "| cwd | 43.0 | 43.0 |" in text and "| cwd instead of the baseline | +2.0 (−0.5 to +4.5) | +2.0 (−10.7 to +14.7) |" in text
    assert "- cwd instead of the baseline: inconclusive at 20, 50 labels." in text
    assert "- trained instead of random weights, baseline: not run." in text
    assert "- 50 instead of 20 labels, baseline, trained weights: 0.0, inconclusive." in text
    (drawn,) = (d for d in script.draw(script.differences(pd.read_csv(tmp_path / "x.csv"))).axes[1].containers if len(d[0].get_ydata()))
    assert drawn.get_label() == "cwd instead of the baseline" and drawn[0].get_ydata() == pytest.approx([2, 2])
    assert np.array([bar[:, 1] for bar in drawn[2][0].get_segments()]) == pytest.approx(np.array([[-0.484, 4.484], [-10.706, 14.706]]), abs=1e-3)


def test_every_training_image_is_there_once_with_or_without_its_label(script, tmp_path, monkeypatch):
    class Tiny:
        classes, palette = ("road", "car"), ((1, 2, 3), (4, 5, 6))

        def __init__(self, split):
            self.names = [f"{i}" for i in range({"train": 9}.get(split, 2))]
            self.shade = len(split) * 20

        def __iter__(self):
            label = np.arange(24, dtype=np.uint8).reshape(4, 6) % 2
            return ((np.full((4, 6, 3), self.shade + int(n), np.uint8), label, n) for n in self.names)

    monkeypatch.setattr(script, "create_dataset", lambda name, split="train": Tiny(split))
    names = script.write_images(tmp_path)
    few, other, full = (script.describe(tmp_path, names, *case) for case in ((4, 0), (4, 1), (9, 0)))
    train, beside = (create_dataset("folder", few, split) for split in ("train", "unlabelled"))
    assert len(train) == 4 and sorted(train.names + beside.names) == sorted(names["train"])
    assert train.names != create_dataset("folder", other).names and set(train[0].label.flat) == {0, 1} and (beside[0].label == 255).all()
    assert len(create_dataset("folder", full)) == 9 and "unlabelled" not in yaml.safe_load(full.read_text())["splits"]
    assert train[0].image.shape == (*script.SIZE, 3)
    groups = script.configs(few, 0)
    assert [len(group) for group in groups] == [3, 2, 2] and len(script.configs(full, 0)) == 2
    assert {config.unlabelled for config in groups[2].values()} == {script.BESIDE} and not any(c.unlabelled for c in groups[1].values())
