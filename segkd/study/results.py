"""Runs to numbers: tidy results, paired differences with an interval, and the papers' reported values beside them."""

from __future__ import annotations

import math
from functools import lru_cache

import pandas as pd

from segkd.config import ROOT
from segkd.study.papers import Row, Table

REPORTED = ROOT / "data" / "papers" / "reported.csv"


@lru_cache
def reported_values() -> pd.DataFrame:
    """``data/papers/reported.csv``: every number that the four papers print."""
    return pd.read_csv(REPORTED, dtype=str, keep_default_na=False)


def reported(table: Table, row: Row, metric: str = "miou") -> float | None:
    """What the paper prints for this row, or None (figures print no numbers; some rows are ours)."""
    if row.reported is None or not table.source:
        return None
    method, setting = row.reported
    source = dict(table.source)
    values = reported_values()
    chosen = (values["metric"] == metric) & (values["method"] == method.replace("label_teacher", "teacher"))
    if method in ("teacher", "label_teacher"):  # the teacher's own score has no student
        student = source.pop("student", None)
        source.pop("student_init", None)
        assisted = values["teacher"].str.endswith("+label")
        chosen &= assisted == (method == "label_teacher" or row.role == "label_teacher")
        if method == "label_teacher":
            chosen &= values["teacher"] == f"{student}+label"
    for column, value in source.items():
        chosen &= values[column] == value
    if setting:
        chosen &= values["setting"] == setting
    found = values[chosen]["value"].astype(float)
    return float(found.iloc[0]) if len(found) else None


def tidy(paper: str, name: str, row: Row, run) -> list[dict]:
    """One line a metric: everything that is quoted anywhere, with the id of the run it comes from."""
    result = run.result
    head = {
        "paper": paper, "table": name, "row": row.label, "role": row.role, "method": row.spec,
        "level": ";".join(f"{k}={v}" for k, v in row.level.items()), "seed": run.config.seed, "run": run.id,
        "split": result["split"],
    }  # fmt: skip
    keys = ("miou", "macc", "pixel_accuracy", "val_last", "val_last5", "val_best", "seconds_per_step", "parameters")
    values = {key: result[key] for key in keys}
    values |= {f"iou/{name}": v for name, v in zip(result["classes"], result["iou"]) if v is not None}
    return [{**head, "metric": key, "value": value} for key, value in values.items()]


def paired(ours: pd.Series, other: pd.Series) -> dict:
    """Mean difference over shared seeds with a 95 % t interval, and what may be said of it.

    ``ours`` and ``other`` are indexed by seed. Verdict: ``higher`` or ``lower`` if the interval leaves 0 out,
    ``inconclusive`` otherwise, ``one run`` where there is nothing to form an interval from.
    """
    difference = (ours - other).dropna()
    n = len(difference)
    if n == 0:
        return {"n": 0, "mean": math.nan, "low": math.nan, "high": math.nan, "verdict": "not run"}
    mean = float(difference.mean())
    if n == 1:
        return {"n": 1, "mean": mean, "low": math.nan, "high": math.nan, "verdict": "one run"}
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1) * difference.std(ddof=1) / math.sqrt(n))
    verdict = "higher" if mean - half > 0 else "lower" if mean + half < 0 else "inconclusive"
    return {"n": n, "mean": mean, "low": mean - half, "high": mean + half, "verdict": verdict}


def summary(table: Table, results: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """A paper's table as we measured it: mIoU in percent, spread over seeds, and the paper's value beside it.

    ``results`` holds this table's tidy lines. Rows without a finished run stay in, marked ``not run``.
    """
    scores = results[results["metric"] == "miou"].assign(value=lambda d: 100 * d["value"].astype(float))
    by_seed = {label: group.set_index("seed")["value"] for label, group in scores.groupby("row")}
    empty = pd.Series(dtype=float)
    base = by_seed.get(reference, empty)
    paper_base = next((reported(table, r) for r in table.rows if r.label == reference), None)
    lines = []
    for row in table.rows:
        values, paper = by_seed.get(row.label, empty), reported(table, row)
        gain = paired(values, base)
        student = row.role == "student" and row.label != reference and reference is not None
        lines.append({
            "row": row.label, "runs": len(values), "mIoU %": values.mean(), "± sd": values.std(ddof=1),
            "gain": gain["mean"] if student else math.nan,
            "95 % interval": f"{gain['low']:+.1f} to {gain['high']:+.1f}" if student and gain["n"] > 1 else "",
            "verdict": gain["verdict"] if student else "" if len(values) else "not run",
            "paper mIoU %": math.nan if paper is None else paper,
            "paper gain": paper - paper_base if student and None not in (paper, paper_base) else math.nan,
        })  # fmt: skip
    return pd.DataFrame(lines)
