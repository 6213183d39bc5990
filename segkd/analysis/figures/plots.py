"""Plots of measured values: one function per kind of figure, all from tidy data frames (one row per run and value).

IoU is a fraction, as ``segkd.metrics`` gives it; the figures show percent. Spread is the sample standard deviation over
seeds; single seeds are always drawn as points. An empty frame gives a figure that says so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from segkd.analysis.figures.chart import listed, runs_of, tell
from segkd.analysis.figures.style import INTENSITY, colours, method_colour, note, styled, subplots
from segkd.metrics import points
from segkd.registry import unknown

SHOWN_CLASSES = 25  # a panel shows at most so many, evenly spaced over its order; the data behind it has all


def baseline_of(df: pd.DataFrame) -> pd.DataFrame:
    """The lines of a frame whose method is the baseline; UserError if there are none."""
    own = df[df["method"] == "baseline"]
    if own.empty:
        raise unknown("method", "baseline", df["method"].unique())
    return own


def gains(df: pd.DataFrame) -> pd.DataFrame:
    """IoU of each method minus the baseline's of the same seed and class, in points: ``method, seed, class, gain``.

    ``df``: columns method, seed, class, iou. Seeds that the baseline lacks are left out. UserError: no baseline.
    """
    base = baseline_of(df).set_index(["seed", "class"])["iou"].rename("base")
    joined = df[df["method"] != "baseline"].join(base, on=["seed", "class"])
    joined["gain"] = 100 * joined["iou"] - 100 * joined["base"]
    return joined.dropna(subset="gain")[["method", "seed", "class", "gain"]].reset_index(drop=True)


def from_hard(df: pd.DataFrame) -> list[str]:
    """Classes from hard to easy, by the IoU of the baseline."""
    return list(baseline_of(df).groupby("class", sort=False)["iou"].mean().sort_values().index)


def from_frequent(df: pd.DataFrame) -> list[str]:
    """Classes from frequent to rare, by ``train_share``."""
    return list(df.groupby("class", sort=False)["train_share"].mean().sort_values(ascending=False).index)


@styled
def per_class_iou(df: pd.DataFrame, teacher: str = "teacher"):
    """IoU per class as bars, and gains over the baseline with hard classes on the left (HWD Fig. 2, FAKD Fig. 2, 4).

    ``df``: columns method, seed, class, iou, train_share (orders the upper panel, frequent classes left).
    Series keep the order of the frame; names that begin with ``teacher`` have no gain. Bars are means, whiskers ± sd,
    points single seeds. Of more than 25 classes each panel shows 25. UserError: the frame has no such baseline.
    """
    gain, df = gains(df), df.assign(iou=100 * df["iou"])
    methods, classes = list(dict.fromkeys(df["method"])), df["class"].nunique()
    shown = [m for m in methods if m in set(gain["method"]) and not m.startswith(teacher)]
    width = float(np.clip(2.5 + min(classes, SHOWN_CLASSES) * (0.28 + 0.09 * len(methods)), 7, 20))
    figure, (top, bottom) = subplots(2, 1, figsize=(width, 6.4))
    hue = colours(methods)
    marks = _class_bars(top, df, "iou", methods, from_frequent(df), hue)
    some = f", {SHOWN_CLASSES} of {classes}" if classes > SHOWN_CLASSES else ""
    top.set(ylabel="IoU (%)", title=f"IoU per class (frequent classes left{some})")
    top.legend(ncols=min(len(methods), 8), loc="lower left", bbox_to_anchor=(0, 1.08))
    marks += _class_bars(bottom, gain, "gain", shown, from_hard(df), hue)
    bottom.axhline(0, color="#333333", lw=1)
    bottom.set(ylabel="gain (points of IoU)", title=f"Gain over baseline (hard classes left{some})")
    mean = gain[gain["method"].isin(shown)].groupby(["method", "class"])["gain"].mean()
    ends = [f"{side}: {c} with {m} ({points(mean[m, c])})" for side, (m, c) in (("gains most", mean.idxmax()), ("loses most", mean.idxmin()))] if len(mean) else []
    message = f"Over baseline, mean over seeds, in points of IoU, {'; '.join(ends)}." if ends else ""
    return tell(figure, f"Bars: IoU of {classes} classes, and gains over baseline", message, marks)


def evenly(order: list) -> list:
    """At most ``SHOWN_CLASSES`` of a list, evenly spaced over it, its two ends included."""
    places = np.linspace(0, len(order) - 1, min(len(order), SHOWN_CLASSES)).round().astype(int) if order else []
    return [order[i] for i in places]


def _class_bars(axes, df: pd.DataFrame, value: str, methods: list[str], order: list[str], hue: dict) -> list[tuple]:
    """Draws a group of bars for each class; gives what each bar says under the mouse."""
    step, order, marks = 0.82 / max(len(methods), 1), evenly(order), []
    df = df[df["class"].isin(order)]
    for i, method in enumerate(methods):
        own = df[df["method"] == method].groupby("class")[value]
        mean, sd = own.mean().reindex(order), own.std(ddof=1).reindex(order)
        x = np.arange(len(order)) + (i - (len(methods) - 1) / 2) * step
        axes.bar(x, mean, step * 0.94, color=hue[method], label=method, alpha=0.85, linewidth=0)
        if sd.notna().any():
            axes.errorbar(x, mean, sd.fillna(0), fmt="none", ecolor="#333333", elinewidth=0.8)
            at = dict(zip(order, x))
            single = df[df["method"] == method]
            places, edge = single["class"].map(at), {"edgecolor": "#333333", "lw": 0.5}
            axes.scatter(places, single[value], s=5, color="white", zorder=3, **edge)
        for name, place, m, s, n in zip(order, x, mean, sd, own.count().reindex(order)):
            spread = f" ± {s:.3g} (standard deviation of {n:.0f})" if n > 1 else ""
            marks.append((place - step / 2, place + step / 2, f"{method}, {name}: {m:.4g}{spread}{runs_of(df, method)}"))
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "fontsize": 9}
    axes.set_xticks(range(len(order)), order, **slanted)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.grid(axis="x", visible=False)
    return [(axes, left, right, *axes.get_ylim(), text) for left, right, text in marks]  # as high as the panel: low bars are found too


@styled
def comparison(df: pd.DataFrame):
    """mIoU of each row of a table: one point per seed, mean ± sd, the baseline as a dashed line, teachers as diamonds.

    ``df``: columns row, seed, miou; rows are drawn from top to bottom in the order of the frame. Rows whose name begins
    with ``teacher`` are teachers.
    """
    df = df.assign(miou=100 * df["miou"])
    rows, marks, means = list(dict.fromkeys(df["row"])), [], {}
    figure, axes = subplots(figsize=(7.5, 1.1 + 0.36 * len(rows)))
    for y, row in enumerate(rows):
        values, colour = df.loc[df["row"] == row, "miou"].to_numpy(), method_colour(row)
        means[row], sd = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
        axes.scatter(values, np.full(len(values), y + 0.22), s=14, color=colour, alpha=0.55, lw=0)
        axes.errorbar(means[row], y, xerr=sd or None, fmt="D" if row.startswith("teacher") else "o", ms=7, color=colour, capsize=3, zorder=3)
        text = f"{means[row]:.1f}" + (f" ± {sd:.1f}" if len(values) > 1 else "") + f", n = {len(values)}"
        axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        if row == "baseline":
            axes.axvline(means[row], color=method_colour("baseline"), ls="--", lw=1.2, zorder=0)
        seeds = ", ".join(f"seed {seed}: {value:.2f}" for seed, value in zip(df.loc[df["row"] == row, "seed"], values))
        marks.append((y, f"{row}: {means[row]:.2f} %" + (f" ± {sd:.2f} (standard deviation)" if len(values) > 1 else "") + f"\n{seeds}{runs_of(df, row)}"))
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="mIoU (%): mean ± standard deviation; small: single seeds")
    axes.grid(axis="y", visible=False)
    order = sorted(means, key=lambda row: -means[row])
    said = f"From the highest mean mIoU down: {listed([f'{row} {means[row]:.1f} %' for row in order], 20)}."
    return tell(figure, "Dot plot: mIoU of each row", said, [(axes, *axes.get_xlim(), y - 0.4, y + 0.4, text) for y, text in marks])


@styled
def training_curves(df: pd.DataFrame):
    """Loss and validation mIoU over steps: the mean of each row as a thick line, single seeds as thin ones.

    ``df``: columns row, seed, step, loss, miou (NaN at steps where a value was not measured); one of the two may be all NaN.
    """
    panels = [c for c in ("loss", "miou") if df[c].notna().any()]
    rows = list(dict.fromkeys(df["row"]))
    hue = colours(rows)
    marks, last = [], {}
    figure, grid = subplots(1, len(panels), figsize=(5 * len(panels), 3.4), squeeze=False)
    for axes, column in zip(grid[0], panels):
        factor = 100 if column == "miou" else 1
        for row in rows:
            own = df[df["row"] == row].dropna(subset=column)
            for _, run in own.groupby("seed"):
                axes.plot(run["step"], run[column] * factor, color=hue[row], lw=0.8, alpha=0.35)
            mean = own.groupby("step")[column].mean() * factor
            axes.plot(mean.index, mean, color=hue[row], lw=1.8, label=row)
            if column == "miou" and len(mean):
                n, last[row] = own["seed"].nunique(), mean.iloc[-1]
                marks += [(axes, step, step, v, v, f"{row}, step {step}: {v:.2f} % (mean of {n})") for step, v in mean.items()]
        axes.set(xlabel="step", ylabel="training loss" if column == "loss" else "validation mIoU (%)")
    grid[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="thick: mean of the seeds", title_fontsize=9)
    order = sorted(last, key=lambda row: -last[row])
    said = f"Validation mIoU at the last step, mean over seeds: {listed([f'{row} {last[row]:.1f} %' for row in order], 20)}." if last else ""
    return tell(figure, "Curves over the steps: training loss and validation mIoU", said, marks)


@styled
def grid_heat(df: pd.DataFrame, x: str, y: str):
    """A two-way ablation as a small heat map of the teacher's and one of the student's mIoU, mean over seeds in each cell (LAD Table 9).

    ``df``: columns ``x``, ``y``, teacher and student, one of which may be missing. Each panel has its own colour scale:
    teacher and student differ by more than their cells do.
    """
    import seaborn as sns

    values = [v for v in ("teacher", "student") if v in df and df[v].notna().any()]
    if len(df) < 3:
        return note(f"{len(df)} place{'s' * (len(df) > 1)} of the grid run here: too few for a map, see the table")
    marks, best = [], []
    size = (2.4 + 0.85 * df[x].nunique(), len(values) * (1.1 + 0.45 * df[y].nunique()))
    figure, panels = subplots(len(values), 1, figsize=size, squeeze=False)
    for axes, value in zip(panels[:, 0], values):
        table = df.pivot_table(index=y, columns=x, values=value, sort=False) * 100
        table = table.sort_index(axis=1).rename(columns=lambda v: f"{v:g}")
        cells = {(i, j): (f"{value}, {x} {table.columns[j]}, {y} {table.index[i]}", v) for (i, j), v in np.ndenumerate(table) if v == v}
        marks += [(axes, j, j + 1, i, i + 1, f"{where}: {v:.2f} %") for (i, j), (where, v) in cells.items()]
        best.append("{}: {:.1f} %".format(*max(cells.values(), key=lambda cell: cell[1])))
        bar = {"label": "mIoU (%)"}
        sns.heatmap(table, ax=axes, annot=True, fmt=".1f", cmap=INTENSITY, linewidths=1, cbar_kws=bar)
        axes.set(title=value, xlabel=x, ylabel=y)
        axes.tick_params(axis="y", rotation=0)
    return tell(figure, "Heat maps of mIoU over two settings", f"Highest: {'; '.join(best)}.", marks)


@styled
def class_bars(df: pd.DataFrame, value: str, label: str | None = None, line: float | None = None, log: bool = False):
    """A number per class, largest left (HWD Table I: TD / NTD), as groups of bars where there is a column method.

    ``df``: columns class, ``value``, optionally method and seed. ``line`` draws a dashed reference, such as 1 for a ratio;
    ``log``: on a logarithmic axis. Of more than 25 classes 25 are shown.
    """
    one = "method" not in df
    df = df.assign(method="all") if one else df
    methods, order = list(dict.fromkeys(df["method"])), df.groupby("class", sort=False)[value].mean().sort_values(ascending=False)
    count = min(len(order), SHOWN_CLASSES)
    figure, axes = subplots(figsize=(max(5, 1.5 + count * (0.3 + 0.14 * len(methods))), 3.4))
    hue = {"all": method_colour("cwd")} if one else colours(methods)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    marks = _class_bars(axes, df, value, methods, list(order.index), hue)
    if count < len(order):
        axes.set_title(f"{count} of {len(order)} classes, evenly spaced")
    if line is not None:
        axes.axhline(line, color="#333333", ls="--", lw=1.2)
    axes.set(ylabel=label or value)
    if not one:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    said = f"Highest for {order.index[0]} ({order.iloc[0]:.3g}), lowest for {order.index[-1]} ({order.iloc[-1]:.3g})."
    return tell(figure, f"Bars: {label or value}, of {len(order)} classes", said, marks)


def smoothing_values(betas: tuple[float, ...] = (0.01, 0.1, 0.4, 0.7, 0.99)) -> pd.DataFrame:
    """HWD's smoothing exp((1 - beta^g) / (1 - beta)) on g in [-2, 2]: columns g, beta, value; beta 1 is its limit exp(g)."""
    g = np.linspace(-2, 2, 201)
    curves = {beta: np.exp((1 - beta**g) / (1 - beta)) for beta in betas} | {1.0: np.exp(g)}
    return pd.concat([pd.DataFrame({"g": g, "beta": beta, "value": value}) for beta, value in curves.items()], ignore_index=True)


@styled
def smoothing_curve(curves: pd.DataFrame):
    """The smoothing of HWD's weights over g, one line per beta. ``curves``: as `smoothing_values` gives them (HWD Fig. 3)."""
    import matplotlib.pyplot as plt

    betas = [beta for beta in curves["beta"].unique() if beta != 1]
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for beta, shade in zip(betas, plt.get_cmap(INTENSITY)(np.linspace(0, 0.8, len(betas)))):
        axes.plot("g", "value", data=curves[curves["beta"] == beta], color=shade, label=f"β = {beta:g}")
    axes.plot("g", "value", "k--", data=curves[curves["beta"] == 1], lw=1, label="exp(g), the limit β → 1")
    axes.set(xlabel="standardised divergence g", ylabel="smoothed weight (unnormalised)", ylim=(-0.2, 8))
    axes.legend()
    ends = curves[np.isclose(curves["g"], 2)].set_index("beta")["value"]
    said = f"A divergence of two deviations above the mean weighs {ends[betas[0]]:.1f} at β = {betas[0]:g} and {ends[1]:.1f} in the limit; all curves meet at g = 0 and g = 1."
    marks = [(axes, line.g, line.g, line.value, line.value, f"β = {line.beta:g}, g = {line.g:g}: {line.value:.3g}") for line in curves[::25].itertuples()]
    return tell(figure, "Curves: smoothed weight over the standardised divergence", said, marks)
