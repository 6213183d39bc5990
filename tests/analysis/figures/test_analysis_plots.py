"""Plots: what they compute from the frames, and that the figures hold the labels a reader needs."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from segkd.analysis.figures import plots, style, sweeps
from segkd.registry import UserError

CLASSES = ["Sky", "Pole", "Car"]


def iou_frame(methods=("teacher", "baseline", "CWD"), seeds=(0, 1)):
    level = {"Sky": 0.9, "Pole": 0.1, "Car": 0.5}
    share = {"Sky": 0.2, "Pole": 0.1, "Car": 0.7}
    rows = []
    for m, method in enumerate(methods):
        for seed in seeds:
            for c in CLASSES:
                rows.append((method, seed, c, level[c] + 0.01 * m + 0.02 * seed, share[c]))
    return pd.DataFrame(rows, columns=["method", "seed", "class", "iou", "train_share"])


def texts(figure):
    figure.canvas.draw()
    kind = matplotlib.text.Text
    return {t.get_text() for t in figure.findobj(kind) if t.get_visible() and t.get_text()}


def test_gains_are_paired_by_seed_and_in_points():
    gain = plots.gains(iou_frame())
    assert set(gain["method"]) == {"teacher", "CWD"}
    np.testing.assert_allclose(gain.loc[gain["method"] == "CWD", "gain"], 1.0, atol=1e-9)
    unpaired = iou_frame(seeds=(0, 1, 2)).query("not (method == 'baseline' and seed == 2)")
    assert set(plots.gains(unpaired)["seed"]) == {0, 1}


def test_unknown_baseline_is_named():
    with pytest.raises(UserError, match="baseline"):
        plots.gains(iou_frame(("bseline", "CWD")))


def test_class_order():
    assert plots.from_hard(iou_frame()) == ["Pole", "Car", "Sky"]
    assert plots.from_frequent(iou_frame()) == ["Car", "Sky", "Pole"]


def test_per_class_iou_orders_both_panels_and_spares_the_teacher():
    figure = plots.per_class_iou(iou_frame())
    top, bottom = figure.axes
    assert [t.get_text() for t in top.get_xticklabels()] == ["Car", "Sky", "Pole"]
    assert [t.get_text() for t in bottom.get_xticklabels()] == ["Pole", "Car", "Sky"]
    assert len(top.containers) >= 3 and {"teacher", "baseline", "CWD"} <= texts(figure)
    heights = [bar.get_height() for bar in bottom.patches]
    np.testing.assert_allclose(heights, 1.0, atol=1e-9)  # CWD alone: no bars for teacher and baseline


def test_comparison_shows_means_and_marks_the_baseline():
    frame = pd.DataFrame(
        {"row": ["teacher", "baseline", "baseline", "LAD"], "seed": [0, 0, 1, 0], "miou": [0.7, 0.4, 0.6, 0.5]}
    )
    figure = plots.comparison(frame)
    assert {"teacher", "LAD", "50.0 ± 14.1, n = 2", "70.0, n = 1"} <= texts(figure)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1 and dashed[0].get_xdata()[0] == pytest.approx(50)


def test_differences_have_intervals_and_single_seeds_are_hollow():
    alphas = [0, 0.001, 0.01, 0.1]
    frame = pd.DataFrame({"alpha": alphas, "n": [3, 3, 3, 1], "mean": [0.0, 1.0, 2.0, 3.0], "low": [-1.0, 0.5, 1.0, np.nan], "high": [1.0, 1.5, 3.0, np.nan]})
    axes = sweeps.gain_curve(frame, "alpha", "CWD").axes[0]
    assert list(axes.get_xticks()) == [0, 1, 2, 3] and [t.get_text() for t in axes.get_xticklabels()] == ["0", "0.001", "0.01", "0.1"]
    assert [t.get_text() for t in axes.texts] == ["n = 3", "n = 3", "n = 3", "n = 1"] and "over CWD, same seeds" in axes.get_ylabel()
    assert axes.lines[-1].get_markerfacecolor() == "white" and list(axes.lines[-1].get_ydata()) == [3.0]
    assert any("too few for a curve" in text for text in texts(sweeps.gain_curve(frame[:2], "alpha", "CWD")))


def test_sweep_over_names_and_hue():
    frame = pd.DataFrame(
        {"mode": ["xor", "or", "and"] * 2, "seed": 0, "miou": [0.50, 0.51, 0.52, 0.40, 0.41, 0.42], "on": [True] * 3 + [False] * 3}
    )
    assert {"xor", "or", "and", "on = True", "on = False"} <= texts(sweeps.sweep(frame, "mode", "on", ("miou", "mIoU (%)"), "mode"))


def test_grid_heat_shows_every_cell():
    frame = pd.DataFrame({"alpha": [0, 0, 0.1, 0.1], "class noise": ["on", "off"] * 2, "teacher": [0.8, 0.9, 0.7, 0.85], "student": [0.5, 0.4, 0.3, 0.2]})
    found = texts(plots.grid_heat(frame, "alpha", "class noise"))
    assert {"80.0", "90.0", "70.0", "85.0", "50.0", "40.0", "30.0", "20.0", "on", "off", "teacher", "student"} <= found


def test_training_curves_draw_what_is_there():
    frame = pd.DataFrame(
        {"row": "LAD", "seed": [0, 0, 1, 1], "step": [0, 10, 0, 10], "loss": [2.0, 1, 4, 3], "miou": np.nan}
    )
    figure = plots.training_curves(frame)
    assert len(figure.axes) == 1
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_ydata(), [3, 2])


def test_small_plots_draw():
    bars = plots.class_bars(pd.DataFrame({"class": CLASSES, "ratio": [3.0, 9, 5]}), "ratio", "TD / NTD", line=1)
    assert [t.get_text() for t in bars.axes[0].get_xticklabels()] == ["Pole", "Car", "Sky"]
    grouped = pd.DataFrame({"class": CLASSES * 2, "method": ["CWD"] * 3 + ["HWD"] * 3, "ratio": [3.0, 9, 5, 1, 1, 1]})
    assert {"CWD", "HWD"} <= texts(plots.class_bars(grouped, "ratio", log=True))
    line = plots.smoothing_curve(plots.smoothing_values((0.5,))).axes[0].lines[0]
    assert np.interp(1.0, line.get_xdata(), line.get_ydata()) == pytest.approx(
        np.e, rel=1e-3
    )  # any beta gives e at g = 1


def test_smoothing_values_have_their_limits():
    frame = plots.smoothing_values((1e-9, 0.1, 1 - 1e-7))
    value = lambda beta, w: float(frame[(frame["beta"] == beta) & np.isclose(frame["g"], w)]["value"].iloc[0])  # noqa: E731
    assert value(0.1, 0.5) == pytest.approx(np.exp((1 - 0.1**0.5) / 0.9), rel=1e-12)
    assert value(1 - 1e-7, -1.5) == pytest.approx(value(1.0, -1.5), rel=1e-5) == pytest.approx(np.exp(-1.5))
    assert value(1e-9, 1.0) == pytest.approx(np.e) and value(1e-9, -0.5) < 1e-100  # flat above 0, nothing below


def test_of_many_classes_some_are_shown_evenly():
    many = [f"class {i}" for i in range(150)]
    both = {"baseline": 0.0, "CWD": 0.01}
    rows = [(m, 0, c, i / 150 + gain, (i + 1) / 12000) for m, gain in both.items() for i, c in enumerate(many)]
    figure = plots.per_class_iou(pd.DataFrame(rows, columns=["method", "seed", "class", "iou", "train_share"]))
    top, bottom = ([t.get_text() for t in axes.get_xticklabels()] for axes in figure.axes)
    assert len(top) == len(bottom) == plots.SHOWN_CLASSES
    assert (top[0], top[-1], bottom[0], bottom[-1]) == ("class 149", "class 0", "class 0", "class 149")
    assert figure.get_figwidth() <= 20 and "25 of 150" in " ".join(texts(figure))
    assert plots.evenly(list(range(49))) == list(range(0, 49, 2)) and plots.evenly([]) == []


def test_sweep_of_another_share():
    frame = pd.DataFrame({"alpha": [0, 0.5, 1.0] * 2, "seed": [0] * 3 + [1] * 3, "noise": "on", "image_share": [0.2, 0.4, 0.6] * 2})
    axes, alone = (sweeps.sweep(own, "alpha", "noise", ("image_share", "share of the image (%)"), "α").axes[0] for own in (frame, frame[:3]))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [20, 40, 60])
    assert axes.lines[0].get_linestyle() == "-" and alone.lines[0].get_linestyle() == "None"  # single runs: no line
    assert axes.get_ylabel() == "share of the image (%)"


def test_figures_leave_no_trace_in_pyplot_or_the_settings():
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    plots.smoothing_curve(plots.smoothing_values())
    assert not plt.get_fignums() and dict(matplotlib.rcParams) == before


def test_method_colours_are_fixed_and_follow_the_own_part():
    assert style.method_colour("kd+rdd") == style.method_colour("RDD") == style.METHOD_COLOURS["rdd"]
    assert style.method_colour("LAD (α = 0.01)") == style.METHOD_COLOURS["lad"]
    assert style.method_colour("fakd_cwd") == style.METHOD_COLOURS["fakd"]
    assert style.method_colour("my method") == style.method_colour("my method")
    assert len(set(style.METHOD_COLOURS.values())) == len(style.METHOD_COLOURS)
    chosen = style.colours(["at+rdd", "dsd+rdd", "rdd"])
    assert len(set(chosen.values())) == 3


@pytest.mark.parametrize("draw", [plots.per_class_iou, plots.comparison, plots.training_curves])
def test_an_empty_frame_is_said_to_be_empty(draw):
    assert "no finished run yet" in texts(draw(pd.DataFrame()))


def test_rows_that_begin_with_teacher_are_diamonds():
    frame = pd.DataFrame({"row": ["teacher (label-assisted)", "LAD"], "seed": 0, "miou": [0.7, 0.5]})
    markers = [line.get_marker() for line in plots.comparison(frame).axes[0].lines if line.get_marker() in "oD"]
    assert markers == ["D", "o"]
