"""TD and NTD: against loops over pixels in float64, and their averages over images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segkd.analysis import channels
from segkd.data.store import Meta, Packed
from segkd.prediction import Prediction


def activation(scores, tau):
    """exp(z / tau) over its sum over all positions."""
    weights = np.exp((scores - scores.max()) / tau)
    return weights / weights.sum()


def by_hand(student, teacher, label, c, tau):
    """(sum on class pixels, their number, sum on other labelled pixels, their number) of one image and class."""
    s, t = activation(student[c], tau), activation(teacher[c], tau)
    inside = outside = own = other = 0
    for (y, x), true in np.ndenumerate(label):
        if true == c:
            inside, own = inside + (s[y, x] - t[y, x]) ** 2, own + 1
        elif true != 255:
            outside, other = outside + (s[y, x] - t[y, x]) ** 2, other + 1
    return inside, own, outside, other


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 4.0]))
def test_sums_are_those_of_loops_over_pixels(seed, tau):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, 2, 3, 4, 5))
    labels = rng.choice([0, 1, 255], (2, 4, 5))
    found = channels.channel_sums(*map(torch.from_numpy, (student, teacher, labels)), tau).numpy()
    for i in range(2):
        for c in range(3):
            np.testing.assert_allclose(found[:, i, c], by_hand(student[i], teacher[i], labels[i], c, tau), rtol=1e-9, atol=1e-18)


def test_labels_come_to_the_grid_by_nearest():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, ::4, ::4] = 1  # what a grid of 2 x 2 sees
    own = channels.channel_sums(torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2), labels)[1]
    assert own.tolist() == [[0, 4]]


class Scores(nn.Module):
    """Three scores that are fixed mixtures of a pixel's colours."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return Prediction(10 * self.mix(x))


@pytest.fixture
def packed():
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, 255], (11, 6, 7), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    labels[3] = 0  # an image without class 1
    images = rng.integers(0, 256, (11, 6, 7, 3)).astype(np.uint8)
    meta = Meta("made", "test", (6, 7), tuple(map(str, range(11))), ("a", "b", "c"), ((0, 0, 0),) * 3, "0")
    return Packed(images, labels, meta, None, None)


def test_ratios_pool_pixels_and_take_the_median_over_images(packed):
    student, teacher = Scores(0), Scores(1)
    frame = channels.divergence_ratios(student, teacher, packed).set_index("class")
    assert list(frame.index) == ["a", "b"] and frame["images"].tolist() == [11, 10]
    x = torch.from_numpy(packed.images.copy()).permute(0, 3, 1, 2).float() / 255
    scores = [m(x).logits.detach().double().numpy() for m in (student, teacher)]
    for c, name in enumerate("ab"):
        rows = np.array([by_hand(scores[0][i], scores[1][i], packed.labels[i], c, 4.0) for i in range(11)])
        inside, own, outside, other = rows.sum(0)
        assert frame.loc[name, "td"] == pytest.approx(inside / own, rel=1e-5)
        assert frame.loc[name, "ratio"] == pytest.approx(inside / own / (outside / other), rel=1e-5)
        seen = rows[(rows[:, 1] > 0) & (rows[:, 3] > 0)]
        expected = np.median(seen[:, 0] / seen[:, 1] / (seen[:, 2] / seen[:, 3]))
        assert frame.loc[name, "ratio_per_image"] == pytest.approx(expected, rel=1e-5)
