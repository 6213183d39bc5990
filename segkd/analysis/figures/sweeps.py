"""Plots over one setting: a measured share, or the paired differences to a reference."""

from __future__ import annotations

import itertools

import pandas as pd

from segkd.analysis.figures.chart import listed, tell
from segkd.analysis.figures.style import MARKERS, colours, note, styled, subplots
from segkd.metrics import points

SYMBOLS = {"lambda": "λ", "beta": "β", "tau'": "τ′", "mu": "μ"}  # settings as the texts write them


@styled
def sweep(df: pd.DataFrame, x: str, hue: str, y: tuple[str, str], label: str):
    """A share against one setting, a line for each value of ``hue``: the mean, and a point per seed.

    ``df``: columns ``x``, ``hue``, seed and that of ``y`` (column of fractions, label of its axis in percent). ``label``: of the
    axis of ``x``.
    """
    df = df.assign(**{y[0]: 100 * df[y[0]]})
    name = lambda key: ", ".join(f"{c} {v:g}" if isinstance(v, float) else f"{c} {v}" for c, v in zip((x, hue), key))  # noqa: E731
    means = [f"{name(key)}: {own.mean():.1f}, n = {own.count()}" for key, own in df.groupby([x, hue], sort=False)[y[0]]]
    position = _positions(df[x])
    figure, axes = subplots(figsize=(6, 3.6))
    tint, marks = colours([str(value) for value in df[hue].unique()]), []
    for marker, (value, part) in zip(itertools.cycle(MARKERS), df.groupby(hue, sort=False)):
        at, look = part[x].map(position), {"color": tint[str(value)]}
        mean, runs = part[y[0]].groupby(at).mean(), part[y[0]].groupby(at).count().max()
        axes.plot(mean.index, mean, ls="-" if runs > 1 else "", marker=marker, label=f"{hue} = {value}", **look)
        axes.scatter(at, part[y[0]], s=12, alpha=0.45, lw=0, **look)
        marks += [(axes, place, place, v, v, f"{hue} = {value}, at {label} {next(k for k, p in position.items() if p == place)}: {v:.2f}") for place, v in mean.items()]
    _ticks(axes, position, label, y[1])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return tell(figure, f"Curve: {y[1]} over {label}", f"Means: {listed(means, 12)}.", marks)


@styled
def gain_curve(df: pd.DataFrame, x: str, reference: str):
    """Points of mIoU by which each setting lies above ``reference``, with its 95 % interval over seeds (HWD Fig. 6, 7).

    ``df``: columns ``x``, n, mean, low, high and, if the paper prints them, ``paper``: its own differences, as crosses. Hollow,
    and joined by no line: one seed. Two settings make no curve, and the figure says so.
    """
    df, x = df.rename(columns=SYMBOLS), SYMBOLS.get(x, x)
    position = _positions(df[x])
    df = df.assign(at=df[x].map(position)).sort_values("at")
    here = df[df["n"] > 0]
    if len(here) < 3:
        return note(f"{len(here)} setting{'s' * (len(here) != 1)} of {x} run here: too few for a curve, see the table")
    figure, axes = subplots(figsize=(6, 3.9))
    axes.axhline(0, color="#333333", lw=1, zorder=0)
    shown, single, printed = here[here["low"].notna()], here[here["low"].isna()], df.dropna(subset=["paper"]) if "paper" in df else df[:0]
    bars = [shown["mean"] - shown["low"], shown["high"] - shown["mean"]]
    axes.errorbar(shown["at"], shown["mean"], yerr=bars, fmt="o-", color="#0072B2", capsize=3, label="here, 95 % interval")
    if len(single):
        axes.plot(single["at"], single["mean"], "o", color="#0072B2", markerfacecolor="white", ls="", label="here, one seed")
    if len(printed):
        axes.plot(printed["at"], printed["paper"], "x", color="#D55E00", ls="", label="the paper's, on its own data")
    marks, told = [], []
    for line in here.to_dict("records"):
        axes.annotate(f"n = {line['n']}", (line["at"], line["mean"]), xytext=(6, 4), textcoords="offset points", fontsize=7.5)
        interval = f" ({points(line['low'])} to {points(line['high'])})" if line["low"] == line["low"] else ""
        text = f"{x} {line[x]:g}: {points(line['mean'])}{interval}"
        ends = (line["low"], line["high"]) if interval else (line["mean"], line["mean"])
        marks.append((axes, line["at"], line["at"], *ends, f"{text}, n = {line['n']}" + (f"\n{line['runs']}" if line.get("runs") else "")))
        told += [text] if interval and not line["low"] <= 0 <= line["high"] else []
    marks += [(axes, at, at, v, v, f"{x} {value:g}, the paper: {v:+.2f}") for at, value, v in zip(printed["at"], printed[x], printed.get("paper", ()))]
    _ticks(axes, position, x, f"points of mIoU over {reference}, same seeds")
    axes.margins(x=0.1)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    best = "" if printed.empty else f" The paper's largest is {printed['paper'].max():+.2f} at {x} {printed.loc[printed['paper'].idxmax(), x]:g}."
    said = f"Told apart from {reference}: {listed(told, 12)}, of {len(here)} settings.{best or ' The paper draws its curve without numbers.'}"
    return tell(figure, f"Paired differences to {reference} over {x}", said, marks)


def _positions(column: pd.Series) -> dict:
    """Where each setting stands: at its value, or at equal steps if it is no number or they span more than a factor of 30."""
    numbers = column.dtype.kind in "iuf"
    values = sorted(column.unique()) if numbers else list(dict.fromkeys(column))
    sizes = [abs(value) for value in values if value] if numbers else []
    near = numbers and (len(sizes) < 2 or max(sizes) / min(sizes) <= 30)
    return dict(zip(values, values if near else range(len(values))))


def _ticks(axes, position: dict, x: str, y: str) -> None:
    axes.set_xticks(list(position.values()), [f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in position])
    axes.set(xlabel=x, ylabel=y)
