"""Difficulty: cases, weights and shares of made networks against counting in plain numpy."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from segkd.analysis import difficulty
from segkd.analysis.boundary import bin_names, distance_bins, split_bins
from segkd.data.store import Meta, Packed
from segkd.prediction import Prediction
from segkd.registry import UserError

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Net(nn.Module):
    """Scores at label size, mixed from a pixel's colours; a second mixture as auxiliary head."""

    align_corners = True

    def __init__(self, seed, aux=True):
        super().__init__()
        torch.manual_seed(seed)
        self.main, self.aux = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1) if aux else None

    def forward(self, x):
        return Prediction(6 * self.main(x), None if self.aux is None else 6 * self.aux(x))


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice([0, 1, 2, 255], (9, 3, 4)), np.ones((1, 4, 4), int)).astype(np.uint8)
    images = rng.integers(0, 256, (9, 12, 16, 3)).astype(np.uint8)
    meta = Meta("made", "test", (12, 16), tuple(map(str, range(9))), ("a", "b", "c"), PALETTE, "0")
    return Packed(images, labels, meta, None, None)


def probabilities(layer, packed):
    """Softmax in float64, (N, H, W, 3)."""
    weight, bias = layer.weight.detach().double().numpy()[:, :, 0, 0], layer.bias.detach().double().numpy()
    scores = 6 * (packed.images.astype(float) / 255 @ weight.T + bias)
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def tfe(net, packed):
    """exp(-KL(main || aux)) from the definition."""
    p, q = probabilities(net.main, packed), probabilities(net.aux, packed)
    return np.exp(-(p * np.log(p / q)).sum(-1))


def test_training_cases_are_shares_of_labelled_pixels(packed):
    teacher, students = Net(0), {10: Net(1, aux=False), 100: Net(2)}
    frame = difficulty.training_cases(students, teacher, packed).set_index("percent")
    valid = packed.labels != 255
    t = probabilities(teacher.main, packed).max(-1) <= 0.7
    for percent, net in students.items():
        s = probabilities(net.main, packed).max(-1) <= 0.7
        expected = [(~s & ~t)[valid].mean(), (s & ~t)[valid].mean(), (~s & t)[valid].mean(), (s & t)[valid].mean()]
        np.testing.assert_allclose(frame.loc[percent], expected, atol=1e-3)
    assert list(frame.columns) == list(difficulty.CASES) and frame.index.tolist() == [10, 100]


def test_near_boundaries_takes_means_in_each_bin(packed):
    net = Net(0)
    frame = difficulty.near_boundaries(net, packed, split_bins(packed, (1, 2)), (1, 2)).set_index("distance")
    bins = distance_bins(torch.from_numpy(packed.labels.copy()).long(), (1, 2)).numpy()
    p, weight = probabilities(net.main, packed), tfe(net, packed)
    for index, name in enumerate(bin_names((1, 2))):
        here = bins == index
        assert frame.loc[name, "pixels"] == here.sum() > 0
        assert frame.loc[name, "wrong"] == pytest.approx((p.argmax(-1) != packed.labels)[here].mean(), abs=1e-9)
        assert frame.loc[name, "hard"] == pytest.approx((p.max(-1) <= 0.7)[here].mean(), abs=1e-3)
        assert frame.loc[name, "weight"] == pytest.approx(weight[here].mean(), rel=1e-5)
    assert difficulty.near_boundaries(Net(0, aux=False), packed, split_bins(packed))["weight"].isna().all()


def test_weights_by_outcome(packed):
    net, valid = Net(3), packed.labels != 255
    found, weight = difficulty.weights_by_outcome(net, packed), tfe(net, packed)
    right = probabilities(net.main, packed).argmax(-1) == packed.labels
    assert found["right"] == pytest.approx(weight[valid & right].mean(), rel=1e-5)
    assert found["wrong"] == pytest.approx(weight[valid & ~right].mean(), rel=1e-5)


def test_training_maps_show_the_masks_of_each_point(packed):
    teacher, students = Net(0), {50: Net(1), 10: Net(2)}
    rows = difficulty.training_maps(students, teacher, packed.images[0], packed.labels[0], PALETTE)
    assert list(rows) == ["10 %", "50 %"]
    t = probabilities(teacher.main, packed)[0].max(-1) <= 0.7
    s = probabilities(students[50].main, packed)[0].max(-1) <= 0.7
    np.testing.assert_array_equal(rows["50 %"]["XOR"], s ^ t)
    np.testing.assert_array_equal(rows["50 %"]["OR"], s | t)
    np.testing.assert_array_equal(rows["50 %"]["AND"], s & t)
    colours = np.array(list(difficulty.CASES.values()))
    np.testing.assert_array_equal(rows["50 %"]["cases"], colours[s * 1 + t * 2])


def test_teacher_maps_show_both_heads(packed):
    net = Net(0)
    row = difficulty.teacher_maps(net, packed.images[0], packed.labels[0], PALETTE)
    weight = tfe(net, packed)[0]
    np.testing.assert_allclose(row["weight exp(-KL)"], weight, rtol=1e-4)
    np.testing.assert_allclose(row["KL(main, aux)"], -np.log(weight), atol=1e-4)
    guess = probabilities(net.aux, packed)[0].argmax(-1)
    np.testing.assert_array_equal(row["auxiliary head"], np.array(PALETTE)[guess])
    with pytest.raises(UserError, match="no auxiliary head"):
        difficulty.teacher_maps(Net(0, aux=False), packed.images[0], packed.labels[0], PALETTE)


@pytest.mark.parametrize("percents", [[10, 25, 100], [100]])
def test_cases_figure_names_the_cases(percents):
    share = dict(zip(difficulty.CASES, (0.4, 0.3, 0.1, 0.2)))
    frame = pd.DataFrame([{"percent": p, "seed": seed, **share} for p in percents for seed in (0, 1)])
    figure = difficulty.cases_figure(frame)
    assert {t.get_text() for t in figure.axes[0].get_legend().get_texts()} == set(difficulty.CASES)
