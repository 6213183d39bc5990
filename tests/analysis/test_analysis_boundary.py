"""Boundaries: bands, distances and boundary IoU against pixel-by-pixel counting in plain Python."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from segkd.analysis import boundary
from segkd.data.store import Meta, Packed
from segkd.prediction import Prediction
from segkd.registry import UserError

MAPS = arrays(np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.sampled_from([0, 0, 0, 1, 2, 255]))


def distance(label):
    """Chessboard distance of each pixel to the nearest one of another class; inf without one; nan for void."""
    found = np.full(label.shape, np.inf)
    for (y, x), own in np.ndenumerate(label):
        for (v, u), other in np.ndenumerate(label):
            if own != 255 and other not in (255, own):
                found[y, x] = min(found[y, x], max(abs(y - v), abs(x - u)))
    return np.where(label == 255, np.nan, found)


@settings(max_examples=25)
@given(MAPS, st.integers(1, 4))
def test_band_is_what_lies_near_another_class(label, width):
    with np.errstate(invalid="ignore"):
        expected = distance(label) <= width
    np.testing.assert_array_equal(boundary.boundary_band(torch.from_numpy(label)[None], width)[0].numpy(), expected)


@settings(max_examples=15)
@given(MAPS)
def test_distance_bins(label):
    edges = (1, 3)
    far = distance(label)
    expected = np.select([label == 255, far <= 1, far <= 3], [-1, 0, 1], 2)
    np.testing.assert_array_equal(boundary.distance_bins(torch.from_numpy(label)[None], edges)[0].numpy(), expected)


def test_bins_and_widths_in_words():
    assert boundary.bin_names((1, 2, 4, 8)) == ["1", "2", "3–4", "5–8", "> 8"]
    assert boundary.band_width((96, 128)) == 3 and boundary.band_width((1024, 2048)) == 46 and boundary.band_width((4, 4)) == 1
    with pytest.raises(UserError, match="at least 1 pixel"):
        boundary.boundary_band(torch.zeros(1, 4, 4, dtype=torch.int64), 0)


class Answers(nn.Module):
    """A network that answers with given maps: the red channel of the image is the class."""

    align_corners = True

    def __init__(self, classes):
        super().__init__()
        self.classes, self.unused = classes, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return Prediction(nn.functional.one_hot((x[:, 0] * 255).round().long(), self.classes).movedim(3, 1).float())


def packed(predicted, labels, classes=3):
    images = np.repeat(predicted.astype(np.uint8)[..., None], 3, -1)
    names = tuple(map(str, range(len(labels))))
    meta = Meta("made", "test", labels.shape[1:], names, ("a", "b", "c")[:classes], ((0, 0, 0),) * classes, "0")
    return Packed(images, labels.astype(np.uint8), meta, None, None)


def iou_by_sets(predicted, labels, classes, width):
    """Boundary IoU by sets of pixels, pooled over images."""
    found = []
    for c in range(classes):
        true, guess = set(), set()
        for i, (p, label) in enumerate(zip(predicted, labels)):
            p = np.where(label == 255, 255, p)
            for maps, pixels in ((label, true), (p, guess)):
                pixels |= {(i, *map(int, at)) for at in np.argwhere((maps == c) & (distance(maps) <= width))}
        found.append(len(true & guess) / len(true | guess) if true | guess else float("nan"))
    return found


@settings(max_examples=6)
@given(st.integers(0, 10_000))
def test_boundary_iou_is_that_of_sets_of_pixels(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice([0, 1, 2, 255], (3, 3, 4), p=[0.4, 0.3, 0.2, 0.1]), np.ones((1, 3, 3), int))
    predicted = np.where(rng.random(labels.shape) < 0.2, rng.integers(0, 3, labels.shape), labels) % 255
    expected = iou_by_sets(predicted, labels, 3, width=1)
    found = boundary.boundary_iou(Answers(3), packed(predicted, labels))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(boundary.mean_boundary_iou(Answers(3), packed(predicted, labels)), np.nanmean(expected))


def test_a_perfect_prediction_has_one_and_a_shifted_edge_less_than_plain_iou():
    labels = np.zeros((1, 20, 20), int)
    labels[:, :, 10:] = 1
    assert boundary.mean_boundary_iou(Answers(2), packed(labels, labels, 2)) == 1
    shifted = np.roll(labels, 1, 2)
    shifted[:, :, 0] = 0
    assert boundary.mean_boundary_iou(Answers(2), packed(shifted, labels, 2)) < 0.5  # the areas' IoU is above 0.9


def test_without_any_edge_it_is_undefined():
    labels = np.zeros((1, 5, 5), int)
    assert np.isnan(boundary.mean_boundary_iou(Answers(3), packed(labels, labels)))


def test_distance_figure_has_a_line_per_series():
    frame = pd.DataFrame({"distance": ["1", "> 1"] * 3, "series": ["baseline"] * 4 + ["RDD"] * 2})
    frame = frame.assign(seed=[0, 0, 1, 1, 0, 0], error=[0.4, 0.1, 0.2, 0.3, 0.5, 0.2])
    axes = boundary.distance_figure(frame, {"error": "share of wrong pixels"}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.3, 0.2])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "> 1"]
