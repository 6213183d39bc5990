"""Effects with their intervals, a line each: a forest plot of the claims, and a dot plot of the methods' gains."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd

from segkd.analysis.style import method_colour, styled

LOOKS = {  # Okabe-Ito, and shapes that differ in grey
    "supported": ("#009E73", "o"),
    "contradicted": ("#D55E00", "X"),
    "inconclusive": ("#6e6e6e", "s"),
    "premise not met": ("#7a5195", "v"),
    "not run": ("#9a9a9a", "D"),
}
ROOM = 2.0  # the axis reaches this many times as far as the largest effect; longer intervals end in an arrow
WIDTH = 54  # characters of a line's name
RATIO = "ratio"


@styled
def forest(df: pd.DataFrame, title: str = "", counts: Mapping[str, object] | None = None):
    """Effects from top to bottom as in the frame, a heading for each ``group``.

    ``df``: columns group, label, verdict, unit, effect, low, high, image_low, image_high, limit, n. Effects in points share
    the upper axis; those in other units (a ratio, a correlation) stand below, each line on a scale of its own, its numbers
    beside it. Thick: t interval over seeds; thin: bootstrap over test images; a tick: the limit, where it is not zero.
    ``counts``: how many have each verdict, where some of them have no effect to draw; the legend says both.
    """
    import matplotlib.pyplot as plt

    parts = [part for part in (df[df["unit"] == "points"], df[df["unit"] != "points"]) if len(part)]
    lines = [len(part) + part["group"].nunique() for part in parts]
    figure, axes = plt.subplots(
        len(parts), 1, figsize=(9, 1.3 + 0.27 * sum(lines)), squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in lines]}
    )
    for axis, part in zip(axes[:, 0], parts):
        points = bool((part["unit"] == "points").all())
        _panel(axis, part if points else _on_own_scales(part), part)
        if not points:
            axis.set_xticks([0], ["no effect"])
        axis.set_xlabel("effect in points of mIoU or accuracy" if points else "other units, each line on its own scale")
    _legend(figure, df, counts or {})
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _on_own_scales(df: pd.DataFrame) -> pd.DataFrame:
    """Every line divided by its own largest effect; ratios by their logarithm, so that 1 is no effect."""
    columns = ["effect", "low", "high", "image_low", "image_high", "limit"]
    found = df.copy()
    ratio = found["unit"] == RATIO
    found.loc[ratio, columns] = np.log(found.loc[ratio, columns].astype(float))
    size = found[["effect", "limit"]].abs().max(axis=1).replace(0, 1)
    found[columns] = found[columns].astype(float).div(size, axis=0)
    return found


def _panel(axis, placed: pd.DataFrame, df: pd.DataFrame) -> None:
    reach = ROOM * max(placed[["effect", "limit"]].abs().max().max(), 1e-9)
    axis.axvline(0, color="#333333", lw=1, zorder=0)
    y, names = 0, []
    for group, members in placed.groupby("group", sort=False):
        names.append((y, group, True))
        for index, line in members.iterrows():
            y += 1
            names.append((y, textwrap.shorten(line["label"], WIDTH, placeholder=" …"), False))
            _line(axis, line, y, reach)
            text = numbers(df.loc[index])
            axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
        y += 1
    axis.set_yticks([at for at, _, _ in names], [name for _, name, _ in names], fontsize=8)
    for tick, (_, _, heading) in zip(axis.get_yticklabels(), names):
        tick.set_fontweight("bold" if heading else "normal")
    axis.set(xlim=(-reach, reach), ylim=(y - 0.4, -0.6))
    axis.grid(axis="y", visible=False)


def _line(axis, line: pd.Series, y: float, reach: float) -> None:
    colour, marker = LOOKS[line["verdict"]]
    for low, high, at, width in (("low", "high", y, 2.2), ("image_low", "image_high", y + 0.28, 0.9)):
        if math.isfinite(line[low]):
            ends = np.clip([line[low], line[high]], -reach, reach)
            axis.hlines(at, *ends, color=colour, lw=width)
            for end, beyond, arrow in ((ends[0], line[low] < -reach, "<"), (ends[1], line[high] > reach, ">")):
                axis.plot(end, at, arrow if beyond else "", color=colour, ms=4, clip_on=False)
    hollow = line["verdict"] == "not run" or not math.isfinite(line["low"])
    axis.plot(line["effect"], y, marker, ms=6.5, color=colour, markerfacecolor="white" if hollow else colour, zorder=3)
    if line["limit"]:
        axis.plot(line["limit"], y, "|", ms=9, color="#333333", zorder=2)


def numbers(line: pd.Series) -> str:
    """An effect in words, such as ``+1.2 (-0.4 to +2.8), n = 3``; a ratio as x1.05."""
    form = "×{:.3g}" if line["unit"] == RATIO else "{:+.1f}" if line["unit"] == "points" else "{:+.2f}"
    text = form.format(line["effect"])
    if math.isfinite(line["low"]):
        text += f" ({form.format(line['low'])} to {form.format(line['high'])})"
    return f"{text}, n = {line['n']:.0f}".replace("-", "−")


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
def gain_dots(gains: Mapping[str, object]):
    """Paired gain of each method, the largest on top: the mean and its 95 % interval, hollow where there is but one seed.

    ``gains``: by name what has ``n``, ``mean``, ``low`` and ``high``, in points of mIoU (`segkd.study.tables.statistics.Estimate`).
    """
    import matplotlib.pyplot as plt

    order = sorted(gains, key=lambda name: -gains[name].mean)
    figure, axes = plt.subplots(figsize=(7.5, 1.1 + 0.3 * len(order)))
    reach = 1.5 * max((abs(gains[name].mean) for name in order), default=1)
    axes.axvline(0, color="#333333", lw=1, zorder=0)
    for y, name in enumerate(order):
        e, colour = gains[name], method_colour(name)
        known = e.low == e.low
        if known:
            axes.hlines(y, max(e.low, -2 * reach), min(e.high, 2 * reach), color=colour, lw=2)
        axes.plot(e.mean, y, "o", ms=7, color=colour, markerfacecolor=colour if known else "white", zorder=3)
        axes.annotate(f"{e}, n = {e.n}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    axes.set_yticks(range(len(order)), order)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlim=(-2 * reach, 2 * reach), xlabel="gain over the baseline of the same seed (points of mIoU)")
    axes.grid(axis="y", visible=False)
    return figure
