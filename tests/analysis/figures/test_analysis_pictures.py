"""Pictures: colours of label maps, and sheets with a legend of what occurs."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkd.analysis.figures import pictures
from segkd.registry import UserError

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])
CLASSES = ["Road", "Car", "Pole"]


def packed(count=3, size=(12, 16)):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (count, *size)).astype(np.uint8)
    labels[:, 0] = 255
    images = rng.integers(0, 255, (count, *size, 3)).astype(np.uint8)
    return SimpleNamespace(
        images=images, labels=labels, classes=CLASSES, palette=PALETTE, names=[f"frame{i}" for i in range(count)]
    )


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.sampled_from([0, 1, 2, 255])))
def test_colorize_maps_each_pixel(label):
    picture = pictures.colorize(label, PALETTE)
    assert picture.shape == (*label.shape, 3) and picture.dtype == np.uint8
    for c in range(3):
        assert (picture[label == c] == PALETTE[c]).all()
    assert (picture[label == 255] == 0).all()


@pytest.mark.parametrize("wrong", [3, -1, 254])
def test_colorize_refuses_a_class_without_colour(wrong):
    with pytest.raises(ValueError, match=str(wrong)):
        pictures.colorize(np.array([[0, wrong]]), PALETTE)


def test_dataset_sheet_names_only_the_classes_that_occur():
    found = texts(pictures.dataset_sheet(packed(), [0, 2]))
    assert {"frame0", "frame2", "Road", "Car", "void"} <= set(found) and "Pole" not in found


def test_prediction_sheet_has_a_column_per_network():
    data = packed()
    predictions = {"baseline": data.labels % 3, "LAD": np.where(data.labels == 255, 0, data.labels)}
    figure = pictures.prediction_sheet(data.images, data.labels, predictions, PALETTE, CLASSES)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 3 * 4 and [a.get_title() for a in drawn[:4]] == ["image", "ground truth", "baseline", "LAD"]
    np.testing.assert_array_equal(drawn[1].images[0].get_array(), pictures.colorize(data.labels[0], PALETTE))


def test_map_sheet_shares_a_scale_only_where_asked():
    rows = [{"a": np.full((4, 4), k / 10), "b": np.eye(4) * k, "mask": np.eye(4) > 0} for k in (1, 5)]
    images = [axis.images[0] for axis in pictures.map_sheet(rows, shared=["a"]).axes]
    assert images[0].get_clim() == images[3].get_clim() == (0.1, 0.5)
    assert images[1].get_clim() == (0, 1) and images[4].get_clim() == (0, 5)
    with pytest.raises(UserError, match="same keys"):
        pictures.map_sheet([{"a": rows[0]["a"]}, {"b": rows[0]["b"]}])


def test_label_noise_sheet_gives_the_ranges():
    label = packed().labels[0]
    noised = np.linspace(-2, 1.5, label.size).reshape(label.shape)
    found = texts(pictures.label_noise_sheet(label, PALETTE, {"noised": noised}, CLASSES))
    assert {"label", "noised", "-2 to 1.5", "Road", "void"} <= set(found)


def test_map_sheet_names_its_rows_and_its_colours():
    rows = {name: {"hard": np.eye(4) > 0, "cases": np.zeros((4, 4, 3), np.uint8)} for name in ("10 %", "100 %")}
    found = texts(pictures.map_sheet(rows, legend={"both easy": (217, 217, 217), "both hard": (60, 60, 60)}))
    assert {"10 %", "100 %", "hard", "cases", "both easy", "both hard"} <= set(found)


def test_zoom_sheet_shows_the_window_below_the_image():
    data = packed(2, (12, 18))
    windows = [(2, 3, 4, 6), (8, 12, 4, 6)]
    figure = pictures.zoom_sheet({"CWD": data.labels % 3}, data.images, data.labels, windows, PALETTE, CLASSES)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 2 * 2 * 3
    np.testing.assert_array_equal(drawn[3].images[0].get_array(), data.images[0, 2:6, 3:9])
    np.testing.assert_array_equal(drawn[9].images[0].get_array(), data.images[1, 8:12, 12:18])
    frame = drawn[6].patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (11.5, 7.5, 6, 4)


def test_map_sheet_breaks_a_row_into_lines():
    row = {name: np.eye(4) for name in "abcdef"}
    figure = pictures.map_sheet([row], columns=3)
    assert [axis.get_title() for axis in figure.axes] == list("abcdef")
    assert figure.axes[3].get_position().y1 < figure.axes[0].get_position().y0


def test_sheets_without_a_run_say_so():
    data = packed(1)
    assert "no finished run yet" in texts(pictures.zoom_sheet({}, data.images, data.labels, [(0, 0, 2, 2)], PALETTE, CLASSES))


def test_legend_names_the_largest_classes_of_many():
    labels = np.repeat(np.arange(40, dtype=np.uint8), np.arange(1, 41))[None, None]
    names = [f"class {i}" for i in range(40)]
    data = SimpleNamespace(images=np.zeros((*labels.shape, 3), np.uint8), labels=labels, classes=names, palette=np.zeros((40, 3)), names=["one"])
    found = texts(pictures.dataset_sheet(data, [0]))
    assert {"class 15", "class 39", "and 15 smaller ones"} <= set(found) and "class 14" not in found
