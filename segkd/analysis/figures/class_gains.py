"""Gain of each class against its difficulty, without measuring both on the same run (FAKD Fig. 2)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from segkd.analysis.figures.chart import listed, runs_of, tell
from segkd.analysis.figures.plots import baseline_of, gains
from segkd.analysis.figures.style import method_colour, styled, subplots
from segkd.metrics import points


def difficulty_and_gain(df: pd.DataFrame) -> pd.DataFrame:
    """For each method, seed and class: gain in points over the baseline of that seed, and the class's difficulty.

    ``df``: columns method, seed, class, iou. ``level`` is the IoU (%) of the baseline in the *other* seeds: where the
    same run gave both numbers, a class that it got too low by chance would be both hard and full of gain. With one seed
    there is no other, ``own_seed`` is then True. Columns: method, seed, class, level, gain, own_seed.
    """
    columns = ["method", "seed", "class", "level", "gain", "own_seed"]
    if df.empty:
        return pd.DataFrame(columns=columns)
    table = baseline_of(df).pivot_table(index="class", columns="seed", values="iou", sort=False) * 100
    alone = len(table.columns) == 1
    levels = {seed: table[seed] if alone else table.drop(columns=seed).mean(axis=1) for seed in table}
    frame = gains(df).assign(own_seed=alone)
    frame["level"] = [levels[seed].get(name, np.nan) for seed, name in zip(frame["seed"], frame["class"])]
    return frame[columns]


def rank_correlations(df: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of level and gain in each run, and its mean: a line per method, a column per seed.

    Below 0: the harder a class, the more it gains. ``df``: as `difficulty_and_gain` gives it.
    """
    pairs = df.dropna(subset=["level", "gain"])
    each = {
        (method, f"seed {seed}"): own["level"].rank().corr(own["gain"].rank())
        for (method, seed), own in pairs.groupby(["method", "seed"], sort=False)
    }
    table = pd.Series(each, dtype=float).unstack().reindex(dict.fromkeys(pairs["method"]))
    return table.assign(mean=table.mean(axis=1)).round(2)


@styled
def gain_figure(df: pd.DataFrame):
    """Gain against difficulty, a panel per method, a point per class (mean over seeds, whiskers ± sd); hard ones left.

    ``df``: as `difficulty_and_gain` gives it. In each panel the three classes of the largest changes are named.
    """
    methods = list(dict.fromkeys(df["method"]))
    columns = min(3, len(methods))
    lines = -(-len(methods) // columns)
    figure, panels = subplots(lines, columns, figsize=(3.5 * columns, 2.7 * lines), sharex=True, sharey=True, squeeze=False)
    marks, reach = [], 0.15 * np.ptp(df.groupby(["method", "class"])["gain"].mean().to_numpy())  # that names need between them
    for axes in panels.flat[len(methods) :]:
        axes.set_axis_off()
    for axes, method in zip(panels.flat, methods):
        own = df[df["method"] == method].groupby("class", sort=False)
        x, y, sd = own["level"].mean(), own["gain"].mean(), own["gain"].std(ddof=1)
        axes.errorbar(x, y, sd if sd.notna().any() else None, fmt="o", ms=5, color=method_colour(method), elinewidth=0.8)
        at = {1: -np.inf, -1: -np.inf}  # the last name on either side
        for name in y[y.abs().nlargest(3).index].sort_values().index:
            side = 1 if x[name] < x.max() / 2 else -1
            at[side] = max(y[name], at[side] + reach)
            while (((x - x[name]) * side).between(1, 30) & ((y - at[side]).abs() < reach / 2)).any():  # not on another point
                at[side] += reach / 4
            axes.annotate(name, (x[name], y[name]), (x[name] + 2 * side, at[side]), ha="left" if side > 0 else "right", va="center", fontsize=7.5, color="#444444", arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.6})
        marks += [(axes, x[c], x[c], y[c], y[c], f"{method}, {c}: {points(y[c])}, baseline {x[c]:.1f} %{runs_of(df, method)}") for c in y.index if x[c] == x[c]]
        axes.axhline(0, color="#333333", lw=1)
        axes.set_title(method)
    others = "" if df["own_seed"].any() else ", from the other seeds"
    figure.supxlabel(f"IoU of the baseline (%), hard classes left{others}", fontsize=9.5)
    figure.supylabel("gain (points of IoU)", fontsize=9.5)
    mean = rank_correlations(df)["mean"]
    said = f"Rank correlation of gain and the baseline's IoU, mean over seeds (below 0: hard classes gain more): {listed([f'{m} {points(v, 2)}' for m, v in mean.items()], 20)}."
    return tell(figure, "Dots: gain of each class over the IoU of the baseline, a panel a method", said, marks)
