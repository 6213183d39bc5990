"""Thin objects: widths of strips that are known, windows against trying all of them."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkd.analysis import thin

MAPS = arrays(np.int64, st.tuples(st.integers(2, 8), st.integers(2, 8)), elements=st.sampled_from([0, 0, 1, 2, 255]))


def width_by_loops(label, c):
    """2 * area / perimeter, pixel by pixel."""
    area = sides = 0
    for (y, x), own in np.ndenumerate(label):
        area += own == c
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= v < label.shape[0] and 0 <= u < label.shape[1]
            sides += own == c and inside and label[v, u] not in (c, 255)
    return 2 * area / sides if sides else (np.inf if area else np.nan)


@settings(max_examples=40)
@given(MAPS)
def test_widths_are_twice_area_over_perimeter(label):
    found = thin.class_widths(label[None], 3)
    np.testing.assert_allclose(found, [width_by_loops(label, c) for c in range(3)], rtol=1e-12)


def test_a_strip_across_the_image_has_its_own_width():
    label = np.zeros((20, 30), np.uint8)
    label[:, 4:6], label[:, 20:25] = 1, 2
    np.testing.assert_allclose(thin.class_widths(label[None], 4)[1:3], [2, 5])
    assert np.isnan(thin.class_widths(label[None], 4)[3])
    assert thin.thinnest(label[None], 4, 2) == [1, 2] and thin.thinnest(label[None], 4, 9) == [1, 2, 0]


def test_widths_frame_is_sorted_and_has_shares():
    label = np.full((1, 4, 10), 255, np.uint8)
    label[:, :, :8], label[:, :, 3] = 0, 1
    frame = thin.widths_frame(SimpleNamespace(labels=label, classes=["road", "pole", "sky"]))
    assert frame["class"].tolist() == ["pole", "road"] and frame["width"].tolist() == [1, 7]
    np.testing.assert_allclose(frame["share"], [12.5, 87.5])


def test_a_class_of_a_few_pixels_is_left_out_unless_all_are():
    label = np.zeros((40, 40), np.uint8)
    label[:, 10:14], label[3, 30] = 1, 2
    assert thin.thinnest(label[None], 3, 1) == [1]
    label[label != 2] = 255
    assert thin.thinnest(label[None], 3, 1) == [2]


@settings(max_examples=30)
@given(MAPS, st.sampled_from([0.3, 0.5, 1.0]))
def test_best_window_is_the_best_of_all(label, share):
    count, (top, left, height, width) = thin.best_window(label, [1, 2], share)
    hit = np.isin(label, [1, 2])
    assert hit[top : top + height, left : left + width].sum() == count
    rows, columns = label.shape[0] - height + 1, label.shape[1] - width + 1
    every = [hit[y : y + height, x : x + width].sum() for y in range(rows) for x in range(columns)]
    assert count == max(every) and every.index(count) == top * columns + left


def test_frames_come_from_parts_of_the_split():
    labels = np.zeros((6, 9, 9), np.uint8)
    labels[1, 4:6, 4:6], labels[0, 0, 0], labels[5, 8, 8] = 1, 1, 1
    assert [index for index, _ in thin.chosen_frames(labels, [1], 3)] == [1, 5]
    assert thin.chosen_frames(labels, [3], 3) == [] and len(thin.chosen_frames(labels[:1], [1], 3)) == 1
