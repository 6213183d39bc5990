"""Effects with their intervals, a line each: a forest plot of the claims, and a dot plot of the methods' gains."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from segkd.analysis.figures.chart import listed, tell
from segkd.analysis.figures.style import keep, method_colour, styled, subplots
from segkd.metrics import points

LOOKS = {  # Okabe-Ito, and shapes that differ in grey
    "supported": ("#009E73", "o"),
    "contradicted": ("#D55E00", "X"),
    "inconclusive": ("#6e6e6e", "s"),
    "premise not met": ("#7a5195", "v"),
    "not run": ("#9a9a9a", "D"),
}
ROOM = 2.0  # the axis reaches this many times as far as the largest effect; longer intervals end in an arrow
WIDTH = 54  # characters of a line's name; a longer one takes two lines
RATIO = "ratio"


@styled
def forest(df: pd.DataFrame, counts: Mapping[str, object] | None = None):
    """Effects from top to bottom as in the frame, a heading for each ``group``.

    ``df``: columns group, label, verdict, unit, effect, low, high, image_low, image_high, limit, n. Effects in points share
    the upper axis; those in other units (a ratio, a correlation) stand below, each line on a scale of its own, its numbers
    beside it. Thick: t interval over seeds; thin: bootstrap over test images; a tick: the limit, where it is not zero.
    ``counts``: how many have each verdict, where some of them have no effect to draw; the legend says both.
    """
    parts = [part for part in (df[df["unit"] == "points"], df[df["unit"] != "points"]) if len(part)]
    lines = [len(part) + part["group"].nunique() for part in parts]
    figure, axes = subplots(
        len(parts), 1, figsize=(9, 1.3 + 0.27 * sum(lines)), squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in lines]}
    )
    marks = []
    for axis, part in zip(axes[:, 0], parts):
        shared = bool((part["unit"] == "points").all())
        marks += _panel(axis, part if shared else _on_own_scales(part), part)
        if not shared:
            axis.set_xticks([0], ["no effect"])
        axis.set_xlabel("effect in points of mIoU or accuracy" if shared else "other units, each line on its own scale")
    _legend(figure, df, counts or {})
    sure = df[(df["verdict"] == "supported") | (df["verdict"] == "contradicted")]
    words = [f"{line['label']} {line['verdict']}, {numbers(line)}" for _, line in sure.iterrows()]
    kept = f"Supported or contradicted after correction: {'; '.join(words)}" if words else "None is supported or contradicted after correction"
    return tell(figure, "Forest plot: the effect behind each claim with its 95 % interval", f"{kept}. {len(df) - len(sure)} other effects are drawn.", marks)


def _on_own_scales(df: pd.DataFrame) -> pd.DataFrame:
    """Every line divided by its own largest effect; ratios by their logarithm, so that 1 is no effect."""
    columns = ["effect", "low", "high", "image_low", "image_high", "limit"]
    found = df.copy()
    ratio = found["unit"] == RATIO
    found.loc[ratio, columns] = np.log(found.loc[ratio, columns].astype(float))
    size = found[["effect", "limit"]].abs().max(axis=1).replace(0, 1)
    found[columns] = found[columns].astype(float).div(size, axis=0)
    return found


def _panel(axis, placed: pd.DataFrame, df: pd.DataFrame) -> list[tuple]:
    """Draws the lines; gives what each says under the mouse."""
    reach = ROOM * max(placed[["effect", "limit"]].abs().max().max(), 1e-9)
    axis.axvline(0, color="#333333", lw=1, zorder=0)
    y, names, marks = 0, [], []
    for group, members in placed.groupby("group", sort=False):
        names.append((y, group, True))
        for index, line in members.iterrows():
            y += 1
            names.append((y, textwrap.fill(line["label"], WIDTH), False))
            _line(axis, line, y, reach)
            text = numbers(df.loc[index])
            axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
            runs = f"\n{line['runs']}" if isinstance(line.get("runs"), str) else ""
            marks.append((axis, -reach, reach, y - 0.4, y + 0.4, f"{line['label']}: {text}, {line['verdict']}{runs}"))
        y += 1
    axis.set_yticks([at for at, _, _ in names], [name for _, name, _ in names], fontsize=8, linespacing=0.95)
    for tick, (_, _, heading) in zip(axis.get_yticklabels(), names):
        tick.set_fontweight("bold" if heading else "normal")
    axis.set(xlim=(-reach, reach), ylim=(y - 0.4, -0.6))
    axis.grid(axis="y", visible=False)
    return marks


def _line(axis, line: pd.Series, y: float, reach: float) -> None:
    colour, marker = LOOKS[line["verdict"]]
    _interval(axis, line["low"], line["high"], y, reach, colour, 2.2)
    _interval(axis, line["image_low"], line["image_high"], y + 0.28, reach, colour, 0.9)
    hollow = line["verdict"] == "not run" or not math.isfinite(line["low"])
    axis.plot(line["effect"], y, marker, ms=6.5, color=colour, markerfacecolor="white" if hollow else colour, zorder=3)
    if line["limit"]:
        axis.plot(line["limit"], y, "|", ms=9, color="#333333", zorder=2)


def _interval(axis, low: float, high: float, y: float, reach: float, colour: str, width: float) -> None:
    """A line from low to high, with an arrow where it leaves the page; none for NaN."""
    if math.isfinite(low):
        ends = np.clip([low, high], -reach, reach)
        axis.hlines(y, *ends, color=colour, lw=width)
        for end, beyond, arrow in ((ends[0], low < -reach, "<"), (ends[1], high > reach, ">")):
            axis.plot(end, y, arrow if beyond else "", color=colour, ms=4, clip_on=False)


def numbers(line: pd.Series) -> str:
    """An effect in words, such as ``+1.2 (-0.4 to +2.8), n = 3``; a ratio as x1.05."""
    digits = 1 if line["unit"] == "points" else 2
    effect, low, high = (f"×{line[c]:.3g}" if line["unit"] == RATIO else points(line[c], digits) for c in ("effect", "low", "high"))
    return f"{effect} ({low} to {high}), n = {line['n']:.0f}" if math.isfinite(line["low"]) else f"{effect}, n = {line['n']:.0f}"


def _legend(figure, df: pd.DataFrame, counts: Mapping[str, object]) -> None:
    from matplotlib.lines import Line2D

    drawn = df["verdict"].value_counts()
    handles = []
    for verdict, (colour, marker) in LOOKS.items():
        if verdict in drawn:
            total = int(counts.get(verdict, drawn[verdict]))
            text = f"{verdict} ({total}" + (f", {drawn[verdict]} of them drawn)" if total != drawn[verdict] else ")")
            text += ": some comparisons are missing" if verdict == "not run" else ""
            face = "white" if verdict == "not run" else colour
            handles.append(Line2D([], [], ls="", marker=marker, color=colour, markerfacecolor=face, label=text))
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=8.5)


@styled
def gain_dots(gains: Mapping[str, object], runs: Mapping[str, Sequence[str]] | None = None, name: str = ""):
    """Paired gain of each method, the largest on top: the mean and its 95 % interval, hollow where there is but one seed.

    ``gains``: by name what has ``n``, ``mean``, ``low`` and ``high``, in points of mIoU (`segkd.study.numbers.statistics.Estimate`).
    ``runs``: the ids behind each. ``name``: of the file of these numbers (`style.keep`). Longer intervals end in an arrow.
    """
    order = sorted(gains, key=lambda row: -gains[row].mean)
    figure, axes = subplots(figsize=(7.5, 1.1 + 0.3 * len(order)))
    reach = 1.5 * ROOM * max((abs(gains[row].mean) for row in order), default=1) or 1
    axes.axvline(0, color="#333333", lw=1, zorder=0)
    lines, marks, sides = [], [], {"above": [], "below": []}
    for y, row in enumerate(order):
        e, colour, ids = gains[row], method_colour(row), ", ".join((runs or {}).get(row, ()))
        _interval(axes, e.low, e.high, y, reach, colour, 2)
        axes.plot(e.mean, y, "o", ms=7, color=colour, markerfacecolor=colour if math.isfinite(e.low) else "white", zorder=3)
        axes.annotate(f"{e}, n = {e.n}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        marks.append((axes, -reach, reach, y - 0.4, y + 0.4, f"{row}: {e}, {e.n} seed{'s' * (e.n != 1)}" + (f"\n{ids}" if ids else "")))
        lines.append({"row": row, "n": e.n, "gain": e.mean, "low": e.low, "high": e.high, "runs": ids})
        for side in ("above",) * (e.low > 0) + ("below",) * (e.high < 0):
            sides[side].append(f"{row} {points(e.mean)}")
    axes.set_yticks(range(len(order)), order)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlim=(-reach, reach), xlabel="gain over the baseline of the same seed (points of mIoU)")
    axes.grid(axis="y", visible=False)
    kept = keep(name, pd.DataFrame(lines)) if name else pd.DataFrame()
    said = f"With the whole interval above 0: {listed(sides['above'], 20)}. Below 0: {listed(sides['below'], 20)}. Of {len(order)} in all."
    return tell(figure, "Dot plot: paired gains over the baseline with their 95 % intervals", said, marks, kept.attrs.get("csv", ""))
