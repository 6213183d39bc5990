"""Plots over one setting: a measured share, or the paired differences to a reference."""

from __future__ import annotations

import numpy as np
import pandas as pd

from segkd.analysis.style import MARKERS, colours, note, percent_factor, styled


@styled
def sweep(df: pd.DataFrame, x: str, hue: str | None = None, label: str | None = None, y: tuple[str, str] = ("miou", "mIoU (%)")):
    """A share against one setting: mean line, a point per seed.

    ``df``: columns ``x``, seed, that of ``y`` (column, label of the axis) and, if given, ``hue`` (one line per value).
    ``label``: of the axis of ``x``.
    """
    import matplotlib.pyplot as plt

    factor = percent_factor(df[y[0]])
    figure, axes = plt.subplots(figsize=(6, 3.6))
    position = _positions(df[x])
    series = {None: df} if hue is None else dict(list(df.groupby(hue, sort=False)))
    tint = {None: "#333333"} if hue is None else colours(list(map(str, series)))
    for i, (name, part) in enumerate(series.items()):
        colour = tint[name if hue is None else str(name)]
        at, value = part[x].map(position), part[y[0]] * factor
        mean = value.groupby(at).mean()
        title = "mean" if hue is None else f"{hue} = {name}"
        axes.plot(mean.index, mean, "-", marker=MARKERS[i % len(MARKERS)], color=colour, label=title)
        axes.scatter(at, value, s=12, color=colour, alpha=0.45, lw=0)
    _ticks(axes, position, label or x, y[1])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def differences(df: pd.DataFrame, x: str, reference: str, label: str | None = None):
    """Points of mIoU by which each setting lies above ``reference``, with its 95 % interval over seeds (HWD Fig. 6, 7).

    ``df``: columns ``x``, n, mean, low, high. Hollow, and joined by no line: one seed. Two settings make no curve, and the
    figure says so.
    """
    import matplotlib.pyplot as plt

    if len(df) < 3:
        return note(f"{len(df)} setting{'s' * (len(df) > 1)} of {label or x} run here: too few for a curve, see the table")
    figure, axes = plt.subplots(figsize=(6, 3.6))
    axes.axhline(0, color="#333333", lw=1, zorder=0)
    position = _positions(df[x])
    df = df.assign(at=df[x].map(position)).sort_values("at")
    shown = df[df["low"].notna()]
    axes.errorbar(shown["at"], shown["mean"], yerr=[shown["mean"] - shown["low"], shown["high"] - shown["mean"]], fmt="o-", color="#0072B2", capsize=3)
    single = df[df["low"].isna()]
    axes.plot(single["at"], single["mean"], "o", color="#0072B2", markerfacecolor="white", ls="")
    for line in df.to_dict("records"):
        axes.annotate(f"n = {line['n']}", (line["at"], line["mean"]), xytext=(6, 4), textcoords="offset points", fontsize=7.5)
    _ticks(axes, position, label or x, f"points of mIoU over {reference}, same seeds")
    return figure


def _positions(column: pd.Series) -> dict:
    """Where each setting stands: at its value, or at equal steps if it is no number or they span more than a factor of 30."""
    values = list(dict.fromkeys(column)) if column.dtype.kind not in "iuf" else sorted(column.unique())
    return dict(zip(values, range(len(values)) if _at_equal_steps(values) else values))


def _ticks(axes, position: dict, x: str, y: str) -> None:
    axes.set_xticks(list(position.values()), [f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in position])
    axes.set(xlabel=x, ylabel=y)


def _at_equal_steps(values: list) -> bool:
    if not all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values):
        return True
    sizes = [abs(v) for v in values if v]
    return len(sizes) > 1 and max(sizes) / min(sizes) > 30
