"""Gain against difficulty: levels from other seeds, rank correlations against scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from segkd.analysis.figures import class_gains

CLASSES = ["Sky", "Pole", "Car", "Tree"]


def frame(seeds=(0, 1, 2), methods=("baseline", "CWD", "HWD")):
    rng = np.random.default_rng(0)
    rows = [(m, s, c, rng.uniform(0.1, 0.9)) for m in methods for s in seeds for c in CLASSES]
    return pd.DataFrame(rows, columns=["method", "seed", "class", "iou"])


def test_level_is_that_of_the_other_seeds():
    df = frame()
    found = class_gains.difficulty_and_gain(df).set_index(["method", "seed", "class"])
    iou = df.set_index(["method", "seed", "class"])["iou"] * 100
    assert not found["own_seed"].any() and len(found) == 2 * 3 * 4
    for (method, seed, name), line in found.iterrows():
        others = [iou["baseline", s, name] for s in (0, 1, 2) if s != seed]
        assert line["level"] == pytest.approx(np.mean(others))
        assert line["gain"] == pytest.approx(iou[method, seed, name] - iou["baseline", seed, name])


def test_one_seed_has_its_own_level_and_says_so():
    df = frame(seeds=(4,))
    found = class_gains.difficulty_and_gain(df)
    expected = df[df["method"] == "baseline"].set_index("class")["iou"] * 100
    assert found["own_seed"].all()
    np.testing.assert_allclose(found["level"], expected[found["class"]])


def test_rank_correlations_are_spearmans():
    found = class_gains.difficulty_and_gain(frame())
    table = class_gains.rank_correlations(found)
    assert list(table.index) == ["CWD", "HWD"]
    for (method, seed), own in found.groupby(["method", "seed"]):
        assert table.loc[method, f"seed {seed}"] == pytest.approx(spearmanr(own["level"], own["gain"])[0], abs=0.005)


def test_figure_has_a_panel_per_method_and_names_the_largest_changes():
    found = class_gains.difficulty_and_gain(frame())
    panels = [axes for axes in class_gains.gain_figure(found).axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["CWD", "HWD"]
    change = found[found["method"] == "CWD"].groupby("class")["gain"].mean().abs()
    assert {t.get_text() for t in panels[0].texts} == set(change.nlargest(3).index)
