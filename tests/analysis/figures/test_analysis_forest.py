"""The forest plot: what stands where, in which colour and shape, and what happens to intervals that leave the page."""

import math

import numpy as np
import pandas as pd
import pytest

from segkd.analysis.figures.forest import LOOKS, forest, numbers

NAN = math.nan


def effects():
    columns = ["group", "label", "verdict", "unit", "effect", "low", "high", "image_low", "image_high", "limit", "n"]
    rows = [
        ("LAD", "lad-02", "supported", "points", 2.0, 1.0, 3.0, 1.5, 2.4, 0.0, 5),
        ("LAD", "lad-03", "contradicted", "points", -1.0, -1.5, -0.5, NAN, NAN, 0.0, 5),
        ("HWD", "hwd-01", "inconclusive", "points", 0.5, -40.0, 41.0, NAN, NAN, -0.5, 2),
        ("HWD", "hwd-02", "premise not met", "points", 0.7, -2.0, 3.4, NAN, NAN, 0.0, 3),
        ("HWD", "hwd-04", "not run", "points", 0.1, NAN, NAN, NAN, NAN, 0.0, 1),
        ("HWD", "hwd-14", "supported", "ratio", 0.98, 0.97, 0.99, NAN, NAN, 1 / 1.1, 5),
        ("RDD", "rdd-16", "inconclusive", "", 0.03, -0.01, 0.07, NAN, NAN, 0.0, 5),
    ]
    return pd.DataFrame(rows, columns=columns)


def markers(axis):
    """(x, y, marker, colour) of what is drawn as one point."""
    lines = [line for line in axis.lines if len(line.get_xdata()) == 1 and line.get_marker() in "oXsvD"]
    return [(float(line.get_xdata()[0]), line.get_ydata()[0], line.get_marker(), line.get_color()) for line in lines]


def test_points_and_other_units_have_panels_of_their_own():
    points, others = forest(effects()).axes
    assert [m[0] for m in markers(points)] == [2.0, -1.0, 0.5, 0.7, 0.1] and len(markers(others)) == 2
    texts = [t.get_text() for t in points.get_yticklabels()]
    assert texts == ["LAD", "lad-02", "lad-03", "HWD", "hwd-01", "hwd-02", "hwd-04"]
    headings = [t.get_text() for t in points.get_yticklabels() if t.get_fontweight() == "bold"]
    assert headings == ["LAD", "HWD"]
    assert len(forest(effects().query("unit == 'points'")).axes) == 1


def test_a_long_name_is_there_to_its_end():
    long = effects().assign(label=lambda df: df["label"] + " a comparison whose name is longer than its line" * 2)
    shown = forest(long).axes[0].get_yticklabels()[1].get_text()
    assert shown.replace("\n", " ") == long["label"][0] and "\n" in shown


def test_verdicts_differ_in_colour_and_in_shape():
    points = forest(effects()).axes[0]
    shown = {verdict: mark[2:] for verdict, mark in zip(("supported", "contradicted", "inconclusive", "premise not met", "not run"), markers(points))}
    assert shown == {verdict: (marker, colour) for verdict, (colour, marker) in LOOKS.items()}
    assert len({marker for _, marker in LOOKS.values()}) == len({colour for colour, _ in LOOKS.values()}) == 5


def test_intervals_are_cut_at_the_page_and_end_in_an_arrow():
    axis = forest(effects()).axes[0]
    left, right = axis.get_xlim()
    ends = [segment[:, 0] for lines in axis.collections for segment in lines.get_segments()]
    assert right == 4.0 == -left and all(left <= e <= right for e in np.concatenate(ends))
    assert any(np.allclose(e, [1.0, 3.0]) for e in ends) and any(np.allclose(e, [1.5, 2.4]) for e in ends)
    arrows = sorted(line.get_marker() for line in axis.lines if line.get_marker() in ("<", ">"))
    assert arrows == ["<", ">"]


def test_ratios_stand_by_their_logarithm_and_the_limit_is_marked():
    others = forest(effects()).axes[1]
    ratio = markers(others)[0][0]
    assert ratio == pytest.approx(np.log(0.98) / np.log(1.1))
    ticks = [line.get_xdata()[0] for line in others.lines if line.get_marker() == "|"]
    assert ticks == pytest.approx([-1.0])


def test_numbers_in_words():
    lines = effects()
    assert numbers(lines.iloc[0]) == "+2.0 (+1.0 to +3.0), n = 5" and numbers(lines.iloc[1]).startswith("−1.0 (−1.5")
    assert numbers(lines.iloc[4]) == "+0.1, n = 1" and numbers(lines.iloc[5]) == "×0.98 (×0.97 to ×0.99), n = 5"
    assert numbers(lines.iloc[6]) == "+0.03 (−0.01 to +0.07), n = 5"


def test_the_legend_says_how_many_there_are_and_how_many_are_drawn():
    said = lambda figure: [text.get_text() for text in figure.legends[0].get_texts()]  # noqa: E731
    assert said(forest(effects()))[0] == "supported (2)"
    counted = said(forest(effects(), counts={"supported": "6", "contradicted": "1"}))
    assert counted[:2] == ["supported (6, 2 of them drawn)", "contradicted (1)"]


def test_nothing_measured_gives_a_note():
    axis = forest(effects().iloc[:0]).axes[0]
    assert "no finished run" in axis.texts[0].get_text()


def test_gains_are_drawn_from_the_largest_and_one_seed_is_hollow():
    from segkd.analysis.figures.forest import gain_dots
    from segkd.study.numbers.statistics import t_estimate

    axes = gain_dots({"KD": t_estimate([-1.0]), "CWD": t_estimate([2.0, 2.2, 1.8])}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CWD", "KD"]
    assert [text.get_text() for text in axes.texts] == ["+2.0 (+1.5 to +2.5), n = 3", "−1.0, n = 1"]
    assert [line.get_markerfacecolor() for line in axes.lines][-1] == "white"
