"""Worked examples of the paper notebooks: every number against an independent computation in float64."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segkd.data.augment import to_batch
from segkd.prediction import Prediction
from segkd.study.lab import lessons, views
from segkd.study.numbers.study import open_study

ROWS = ["CWD", lessons.PLAIN, lessons.ASSISTED]


@pytest.fixture(scope="module")
def study(shared_runs):
    """The joint comparison at the smallest scale, with CWD and both teachers trained."""
    found = open_study("all", "smoke", methods="cwd", tables="main")
    found.run()
    return found


def predicted(study, row, indices):
    """Logits (B, C, h, w) in float64 and labels (B, H, W)."""
    test = study.packed(study.data.split)
    found = views.predict_images(views.first_run(study, "main", row), test, indices)
    return torch.cat([one.logits for one in found]).double().numpy(), test.labels[indices]


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def upsampled(logits, size):
    return torch.nn.functional.interpolate(torch.from_numpy(logits), size, mode="bilinear", align_corners=True).numpy()


def test_an_example_without_its_run_says_so(study, tmp_path, monkeypatch):
    assert not lessons.if_run(study, ROWS, lambda s: pd.DataFrame({"a": [1]})).empty
    assert lessons.if_run(study, ["HWD"], pytest.fail).empty, "METHODS leaves HWD out"
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    empty = lessons.if_run(study, ROWS, pytest.fail)
    assert empty.empty and "no finished run yet" in lessons.shown(empty).to_html()
    told = lessons.differences(study, ["hwd"]).data
    assert set(told["switch"]) == {"hwd: mu", "hwd: count"} and "loss ×" not in told


def test_shown_formats_floats_and_escapes_text():
    html = lessons.shown(pd.DataFrame({"n": [3], "x": [1 / 3], "y": [2e-7], "t": ["<b>"]}), "{:.3f}", y="{:.0e}").to_html()
    assert ">0.333<" in html and ">2e-07<" in html and ">3<" in html and "&lt;b&gt;" in html


def test_bound_lies_above_the_sampled_mean_and_that_above_the_plain_loss():
    frame = lessons.bound_by_sampling((0.0, 0.5, 1.0, 2.5), draws=500)
    plain, mean, bound = (frame.iloc[:, k].to_numpy() for k in (1, 2, 3))
    assert len(set(plain)) == 1 and mean[0] == pytest.approx(plain[0]) and bound[0] == pytest.approx(plain[0])
    assert (plain[1:] < mean[1:]).all() and (mean[1:] < bound[1:]).all()
    gap = bound - mean
    assert (np.diff(gap) > 0).all(), "the looser, the more noise"


def test_weights_step_by_step(study):
    frame = lessons.weight_steps(study, 0)
    (ours, labels), (teacher, _) = predicted(study, "CWD", [0]), predicted(study, lessons.PLAIN, [0])
    shape = ours.shape
    p, q = (softmax(x.reshape(shape[1], -1) / 4, 1) for x in (ours, teacher))
    apart = ((p - q) ** 2).mean(1)
    rows, columns = (np.arange(n) * size // n for n, size in zip(shape[2:], labels.shape[1:]))
    grid = labels[0][np.ix_(rows, columns)]
    count = np.array([(grid == c).sum() for c in range(shape[1])])
    g = apart / (count + 1)
    g = (g - g.mean()) / g.std(ddof=1)
    weight = shape[1] * softmax((1 - 0.1**g) / 0.9, 0)
    names = list(study.packed("test").classes)
    order = [names.index(name) for name in frame["class"]]
    for column, expected in (("N (pixels)", count), ("CD", apart), ("CD / (N + 1)", apart / (count + 1)), ("weight", weight)):
        np.testing.assert_allclose(frame[column], expected[order], rtol=2e-3, err_msg=column)
    np.testing.assert_allclose(frame["standardised g"], g[order], atol=2e-3)
    assert frame["weight"].sum() == pytest.approx(shape[1], rel=1e-5) and frame["weight"].is_monotonic_decreasing


def test_weights_under_settings(study):
    frame = lessons.weight_settings(study, {"paper": {}, "flat": {"mu": 9.0}, "none": {"count": "none"}}, 0)
    steps = lessons.weight_steps(study, 0).set_index("class")["weight"]
    np.testing.assert_allclose(frame["paper"], steps.loc[frame["class"]], rtol=1e-6)
    np.testing.assert_allclose(frame["flat"], 1, atol=1e-4)
    assert np.abs(frame["none"] - frame["paper"]).max() > 0.01


def test_cases_of_difficulty(study, monkeypatch):
    """On random scores: networks of four steps are sure of everything."""
    random = torch.Generator().manual_seed(0)
    scores = [2 * torch.randn(4, 5, 6, 8, generator=random) for _ in range(2)]
    labels = torch.randint(5, (4, 24, 32), generator=random)
    labels[:, :3] = 255
    single = [[Prediction(one[None], None, None, (), None) for one in x] for x in scores]
    monkeypatch.setattr(lessons, "_pairs", lambda *_: zip(*single, labels[:, None]))
    frame = lessons.difficulty_cases(study, "RDD", 0.5).set_index(["student", "teacher"])
    big, labels = [upsampled(x.double().numpy(), labels.shape[1:]) for x in scores], labels.numpy()
    hard, wrong = [softmax(x, 1).max(1) <= 0.5 for x in big], [x.argmax(1) != labels for x in big]
    valid = labels != 255
    for (student, teacher), line in frame.iterrows():
        here = valid & (hard[0] == (student == "hard")) & (hard[1] == (teacher == "hard"))
        assert here.any() and line["share %"] == pytest.approx(100 * here.sum() / valid.sum(), abs=0.05)
        for name, errors in zip(("student", "teacher"), wrong):
            assert line[f"{name} wrong %"] == pytest.approx(100 * errors[here].mean(), abs=0.2)
    assert frame["share %"].sum() == pytest.approx(100)
    assert list(frame["kept by"]) == ["none", "XOR, OR, OHEM", "XOR, OR", "OR, AND, OHEM"]


def test_spread_of_the_classes(study):
    frame = lessons.class_spread(study).set_index("class")["spread"]
    train, network = study.packed("train"), views.model(study, "main", "CWD")
    images, labels = to_batch(*(torch.from_numpy(a[: 2 * lessons.IMAGES].copy()) for a in (train.images, train.labels)))
    with torch.no_grad():
        found = network(images)
    feature, weight = found.feature.double().numpy(), found.classifier[0].detach().double().numpy()
    rows, columns = (np.arange(n) * size // n for n, size in zip(feature.shape[2:], labels.shape[1:]))
    grid = labels.numpy()[:, rows][:, :, columns]
    assert set(frame.index) <= set(train.classes) and len(frame) > 1
    for name, value in frame.items():
        c = list(train.classes).index(name)
        own = feature.transpose(0, 2, 3, 1)[grid == c]
        assert value == pytest.approx(math.sqrt((weight[c] ** 2 * own.var(0)).sum()), rel=1e-3)


def test_two_answers_of_the_label_assisted_teacher(study):
    first, second = lessons.two_answers(study, 1)
    assert not np.allclose(first["label channel"], second["label channel"])
    assert np.array_equal(first["image"], study.packed("test").images[1]) and first["answer"].dtype == np.uint8
    for row in (first, second):
        gap = row["KL from the other answer"]
        assert gap.shape == row["label channel"].shape and gap.min() > -1e-6 and gap.max() > 0


def test_differences_are_measured_where_networks_are_trained(study):
    told = lessons.differences(study, ["hwd"]).data
    assert len(told) == 3 and told["loss ×"].notna().all()


@given(st.floats(0.01, 20), st.integers(2, 60))
@settings(max_examples=20)
def test_half_width_is_that_of_scipy(sd, n):
    low, high = stats.t.interval(0.95, n - 1, loc=3.0, scale=sd / math.sqrt(n))
    assert lessons.half_width(sd, n) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("sd", [0.01, 0.5, 2.0, 7.0])
def test_fewest_seeds(sd):
    n = lessons.least_seeds(sd, 1.0)
    assert lessons.half_width(sd, n) <= 1 and (n == 2 or lessons.half_width(sd, n - 1) > 1)
    assert lessons.least_seeds(500.0, 0.1, most=50) == 50


class Scores:
    """A study's scores, given."""

    def __init__(self, lines):
        self.lines = lines

    def scores(self, table):
        return pd.DataFrame(self.lines, columns=["row", "seed", "miou"])


def test_seeds_needed_is_from_paired_differences():
    base, ours = [0.30, 0.35, 0.32], [0.31, 0.33, 0.36]
    lines = [("baseline", s, v) for s, v in enumerate(base)] + [("X", s, v) for s, v in enumerate(ours)] + [("one", 0, 0.5)]
    frame = lessons.seeds_needed(Scores(lines), effect=2.0)
    sd = np.std(100 * (np.array(ours) - np.array(base)), ddof=1)
    assert list(frame["row"]) == ["X"] and frame["seeds"][0] == 3
    assert frame["sd of the paired difference"][0] == pytest.approx(sd)
    assert frame["half width now"][0] == pytest.approx(stats.t.ppf(0.975, 2) * sd / math.sqrt(3))
    assert frame["seeds for ± 2"][0] == lessons.least_seeds(sd, 2.0) > 3
    assert lessons.seeds_needed(Scores([])).empty and lessons.seeds_needed(Scores(lines[3:])).empty
