"""The numbers of docs/findings.md: tables written from the committed results of scratch on CamVid, never typed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from segkd.config import ROOT
from segkd.registry import UserError
from segkd.study.tables.step_times import ALONE
from segkd.study.tables.frozen import Frozen, read_results
from segkd.study.tables.papers import COMPARISON, comparison_rows, paper_tables, single_methods
from segkd.study.tables.results import by_seed, paired
from segkd.study.tables.statistics import bootstrap_interval, resampled_miou

BEGIN, END = "<!-- numbers: written by `segkd readme` -->", "<!-- end of numbers -->"
FOLDER = ROOT / "reports" / "scratch-camvid"
CHOOSING, FRESH = [0, 1, 2], [5, 6, 7]  # seeds: a combination is chosen by val on the first, and set against the others on these
TIMES = ["ms a step", "ms of the teacher's pass"]
SHOWN = ("main", "codes", "rivals", "controls")  # tables of the comparison whose rows are set against the baseline
LONGER = "baseline, 1.5 times as long"
ABLATIONS = (  # the row of the comparison that has the paper's own setting, and a table that changes it
    ("FAKD", "fakd", "lambda"), ("HWD", "hwd", "beta"), ("HWD", "hwd", "mu"), ("RDD", "rdd", "stages"), ("RDD", "rdd", "mode"),
    ("RDD", "rdd", "table7"), ("LAD", "lad", "noise"), ("teacher (label-assisted)", "lad", "noise"),
)  # fmt: skip
PAIRS = (  # what each paper says of its method against the loss that it changes; paper and code; the teachers
    ("FAKD", "CWD"), ("HWD", "CWD"), ("RDD", "KD"), ("LAD", "CWD"), ("LAD", "KD"),
    ("HWD, as its code", "HWD"), ("HWD, as its code", "CWD"), ("RDD, as its code", "RDD"), ("LAD, as its code", "LAD"),
    ("teacher (label-assisted)", "baseline"), ("teacher (label-assisted)", "teacher (plain, larger)"),
)  # fmt: skip


def update_findings(page: Path = ROOT / "docs" / "findings.md", folder: Path = FOLDER) -> None:
    """Write the tables between the page's two markers; UserError if they are not there."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(f"{page.name}: the markers of the numbers are missing; put back '{BEGIN}' and '{END}'")
    head, rest = text.split(BEGIN, 1)
    page.write_text(head + BEGIN + "\n" + findings_block(folder) + END + rest.split(END, 1)[1])


def findings_block(folder: Path = FOLDER) -> str:
    """The tables as Markdown: gains over the baseline, pairs, ablations, combinations, costs, the tuning of the baseline."""
    results = read_results(folder / "results.csv")
    rows = results[results["paper"] == COMPARISON]
    main, tuning = rows[rows["table"].isin(SHOWN)], rows[rows["table"] == "tuning"]
    runs = {label: _row(group) for label, group in main.groupby("row")}
    sums = {label: _row(group) for label, group in rows[rows["table"] == "combinations"].groupby("row")}
    sums = {label: own for label, own in sums.items() if label not in runs}
    kept = Frozen(folder)
    parts = [
        _gains(runs, kept), _pairs(runs, kept), _ablations(results, runs, kept), _sums(sums, runs, kept), _chosen(sums, runs, kept),
        _costs(runs, pd.read_csv(ALONE)), _tuning(tuning), _convergence(runs, kept),
    ]  # fmt: skip
    return "\n".join(line for part in parts if part for line in (*part, ""))


def _row(group: pd.DataFrame) -> pd.DataFrame:
    """A line a seed: the metrics, and the id of the run."""
    return by_seed(group).assign(run=group.drop_duplicates("seed").set_index("seed")["run"])


def _gains(runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    lines = [
        "| row | seeds | mIoU % | sd over seeds | gain over the baseline | 95 % over seeds | 95 % over images |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = runs["baseline"]
    for label in (name for name in comparison_rows(*SHOWN) if name in runs):
        own, score = runs[label], 100 * runs[label]["miou"]
        found = _difference(own, base, kept) if label != "baseline" else ["", "", ""]
        spread = f"{score.std(ddof=1):.1f}" if len(own) > 1 else ""
        lines.append(_line(label, len(own), f"{score.mean():.1f}", spread, *found))
    return lines


def _pairs(runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    """The pairs that papers speak of, every method that gains against training longer, and the papers' rivals against CWD."""
    longer = [(label, LONGER) for label in single_methods() if label in runs and _gain(runs, label)["low"] > 0]
    rivals = [(label, "CWD") for label in comparison_rows("rivals") if label != "baseline"]
    lines = ["| difference | seeds | points | 95 % over seeds | 95 % over images |", "| --- | --- | --- | --- | --- |"]
    for ours, other in (*PAIRS, *longer, *rivals):
        if ours in runs and other in runs:
            shared = runs[ours].index.intersection(runs[other].index)
            lines.append(_line(f"{ours} less {other}", len(shared), *_difference(runs[ours], runs[other], kept)))
    return lines


def _ablations(results: pd.DataFrame, runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    """Each changed setting against the paper's own, where another than that was trained."""
    lines = [
        "| ablation | setting | seeds | mIoU % | less the paper's setting | 95 % over seeds | 95 % over images |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    known = set().union(*(found["run"] for found in runs.values()))  # the paper's setting, baseline and CWD among them
    for own, paper, name in (place for place in ABLATIONS if place[0] in runs):
        role, title = comparison_rows("main")[own].role, paper_tables(paper, None)[name].title
        rows = results[(results["paper"] == paper) & (results["table"] == name) & (results["role"] == role)]
        for label, group in rows.groupby("row", sort=False):
            found = _row(group)
            if not known.intersection(found["run"]):
                seeds = found.index.intersection(runs[own].index)
                lines.append(_line(title, label, len(seeds), f"{100 * found['miou'].mean():.1f}", *_difference(found, runs[own], kept)))
    return lines if len(lines) > 2 else []


def _sums(sums: dict[str, pd.DataFrame], runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    """Each combination of methods against the single method that it is least above."""
    lines = [
        "| combination | seeds | val mIoU %, last step | mIoU % | gain over the baseline | least above | by | 95 % over seeds | 95 % over images |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    score = lambda own: 100 * own["miou"].mean()  # noqa: E731
    for label, own in sorted(sums.items(), key=lambda item: -score(item[1])):
        rivals = {name: runs[name] for name in single_methods() if name in runs and own.index.intersection(runs[name].index).size}
        least = min(rivals, key=lambda name: paired(own["miou"], rivals[name]["miou"])["mean"])
        against = _difference(own, rivals[least], kept)
        val = f"{100 * own['val_last'].mean():.1f}"
        lines.append(_line(label, len(own), val, f"{score(own):.1f}", _difference(own, runs["baseline"], kept)[0], least, *against))
    return lines if len(lines) > 2 else []


def _chosen(sums: dict[str, pd.DataFrame], runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    """The combination that val chose, against each single method on the test images, over seeds that chose nothing."""
    val = {label: own["val_last"].reindex(CHOOSING).mean(skipna=False) for label, own in sums.items()}
    val = {label: score for label, score in val.items() if not math.isnan(score)}
    if not val:
        return []
    best = max(val, key=val.__getitem__)
    fresh = sums[best][sums[best].index.isin(FRESH)]
    lines = [
        f"| {best} (the best of {len(val)} on val, {100 * val[best]:.1f} %) less | fresh seeds | points | 95 % over seeds | 95 % over images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label in ("baseline", *single_methods()):
        other = runs.get(label, fresh[:0])
        shared = fresh.index.intersection(other.index)
        if shared.size:
            lines.append(_line(label, len(shared), *_difference(fresh, other, kept)))
    return lines if len(lines) > 2 else []


def _gain(runs: dict[str, pd.DataFrame], label: str) -> dict:
    """Points over the baseline, paired."""
    return paired(100 * runs[label]["miou"], 100 * runs["baseline"]["miou"])


def _costs(runs: dict[str, pd.DataFrame], times: pd.DataFrame) -> list[str]:
    """What a step of each student takes beside the baseline's, and what a point of mIoU costs so."""
    lines = [
        "| row | ms a step | teacher's pass | more than the baseline | gain | ms a step for a point |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = times.set_index("row")
    base = found.loc["baseline", TIMES].sum()
    for label in (name for name in found.index if name in runs):
        own, said = found.loc[label, TIMES]
        more, gain = own + said - base, _gain(runs, label)
        price = f"{more / gain['mean']:.0f}" if gain["low"] > 0 else "no gain shown"
        beside = ("", "", "") if label == "baseline" else (f"{more:+.0f}", f"{gain['mean']:+.1f}", price)
        lines.append(_line(label, f"{own:.0f}", f"{said:.0f}", *beside))
    return lines if len(lines) > 2 else []


def _convergence(runs: dict[str, pd.DataFrame], kept: Frozen) -> list[str]:
    """Validation scores of the baseline and of its longer control at each tenth of the training, means over seeds."""
    tenths = range(10, 101, 10)
    lines = [f"| val mIoU % after | {' | '.join(f'{t} %' for t in tenths)} |", f"| --- |{' --- |' * len(tenths)}"]
    for label in (name for name in runs if name.startswith("baseline")):
        scores = [[100 * row["miou"] for row in kept.curves.get(run, []) if row["kind"] == "val"] for run in runs[label]["run"]]
        scores = [own for own in scores if len(own) == len(tenths)]
        if scores:
            lines.append(_line(label, *(f"{value:.1f}" for value in np.mean(scores, axis=0))))
    return lines if len(lines) > 2 else []


def _tuning(tuning: pd.DataFrame) -> list[str]:
    lines = ["| baseline | seed | val mIoU %, last step | test mIoU % |", "| --- | --- | --- | --- |"]
    for label, group in tuning.groupby("row", sort=False):
        for seed, values in by_seed(group).iterrows():
            lines.append(_line(label, seed, f"{100 * values['val_last']:.1f}", f"{100 * values['miou']:.1f}"))
    return lines if len(lines) > 2 else []


def _difference(ours: pd.DataFrame, other: pd.DataFrame, kept: Frozen) -> list[str]:
    """Points, interval over seeds, interval over test images (of the mean over the seeds that both have)."""
    found = paired(100 * ours["miou"], 100 * other["miou"])
    seeds = ours.index.intersection(other.index)
    counts = [(kept.images(ours["run"][seed]), kept.images(other["run"][seed])) for seed in seeds]
    images = ""
    if seeds.size and all(array is not None for pair in counts for array in pair):
        drawn = np.mean([resampled_miou(a) - resampled_miou(b) for a, b in counts], axis=0)
        images = _interval(*(100 * value for value in bootstrap_interval(drawn)))
    return [f"{found['mean']:+.1f}", _interval(found["low"], found["high"]), images]


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.1f} to {high:+.1f}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
