"""Runs to numbers: tidy results, paired differences with an interval, and the papers' reported values beside them."""

from __future__ import annotations

import math

import pandas as pd

from segkd.registry import UserError
from segkd.study.tables.costs import step_seconds
from segkd.study.tables.reported import REPORTED, reported, reported_values
from segkd.study.tables.statistics import half_width, t_estimate
from segkd.study.tables.table import Row, Table

__all__ = ["REPORTED", "base_row", "by_seed", "paired", "reported", "reported_values", "summary", "tidy"]
METRICS = (
    "miou", "macc", "pixel_accuracy", "val_last", "val_last5", "val_best", "seconds_per_step", "teacher_seconds_per_step",
    "peak_memory_mib", "parameters",
)  # fmt: skip


def tidy(paper: str, name: str, row: Row, run) -> list[dict]:
    """One line a metric: everything that is quoted anywhere, with the id of the run it comes from."""
    result = run.result
    head = {
        "dataset": run.config.data.name, "paper": paper, "table": name, "row": row.label, "role": row.role, "method": row.spec,
        "level": ";".join(f"{k}={v}" for k, v in row.level.items()), "seed": run.config.seed, "run": run.id,
        "split": result["split"],
    }  # fmt: skip
    values = {key: result[key] for key in METRICS if key in result}
    values |= {f"iou/{name}": v for name, v in zip(result["classes"], result["iou"]) if v is not None}
    return [{**head, "metric": key, "value": value} for key, value in values.items()]


def paired(ours: pd.Series, other: pd.Series) -> dict:
    """Mean difference over shared seeds with a 95 % t interval, and what may be said of it.

    ``ours`` and ``other`` are indexed by seed. Verdict: ``higher`` or ``lower`` if the interval leaves 0 out,
    ``inconclusive`` otherwise, ``one run`` where there is nothing to form an interval from.
    """
    found = t_estimate((ours - other).dropna())
    verdict = {0: "not run", 1: "one run"}.get(found.n)
    verdict = verdict or ("higher" if found.low > 0 else "lower" if found.high < 0 else "inconclusive")
    return {"n": found.n, "mean": found.mean, "low": found.low, "high": found.high, "verdict": verdict}


def one_setting(results: pd.DataFrame) -> None:
    """UserError where tidy lines of several profiles or data sets are to become one table: they cannot be compared."""
    for column in ("profile", "dataset"):
        found = sorted(results[column].dropna().unique()) if column in results else []
        if len(found) > 1:
            raise UserError(f"results of several {column}s in one table: {', '.join(found)}; make one table of each")


def summary(table: Table, results: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """A paper's table as we measured it: mIoU in percent, spread over seeds, cost, and the paper's values beside it.

    ``results`` holds this table's tidy lines; UserError if they are of several profiles or data sets. Rows without a
    finished run stay in, marked ``not run``. Gains are paired by seed, against ``reference`` or, in a table of several
    students, against the baseline of the row's own.
    """
    one_setting(results)
    value = {label: by_seed(group) for label, group in results.groupby("row")}
    empty = pd.DataFrame(columns=["miou", "seconds_per_step", "teacher_seconds_per_step", "peak_memory_mib"], dtype=float)
    base_of = {row.label: base_row(table, row, reference) for row in table.rows}
    paper = {row.label: reported(table, row) for row in table.rows}
    lines = []
    for row in table.rows:
        own, base = value.get(row.label, empty), base_of[row.label]
        values = 100 * own["miou"].dropna()
        lines.append(
            {"row": row.label, "runs": len(values), "mIoU %": values.mean(), "± sd": values.std(ddof=1), "± 95 %": half_width(values.std(ddof=1), len(values))}
            | _gain(values, 100 * value.get(base, empty)["miou"], row, base)
            | _paper(paper[row.label], paper.get(base), base)
            | {
                "ms a step": 1000 * step_seconds(own),
                "MiB": own["peak_memory_mib"].mean(),
            }
        )
    return pd.DataFrame(lines)


def by_seed(group: pd.DataFrame) -> pd.DataFrame:
    """Tidy lines of one row as a line a seed, a column a metric."""
    group = group[group["metric"].isin(METRICS)].astype({"value": float})
    wide = group.pivot_table(index="seed", columns="metric", values="value")
    return wide.reindex(columns=list(METRICS))


def base_row(table: Table, row: Row, reference: str | None) -> str | None:
    """Label of the row that a row's gain is against; None: it has none."""
    if row.role != "student":
        return None
    own = [r.label for r in table.rows if r.group and r.group == row.group and r.spec == "baseline" and not r.control]
    base = own[0] if own and reference == "baseline" else reference
    return None if base == row.label else base


def _gain(values: pd.Series, base: pd.Series, row: Row, reference: str | None) -> dict:
    if reference is None:
        return {"gain": math.nan, "95 % interval": "", "verdict": "" if len(values) else "not run"}
    found = paired(values, base)
    low, high = found["low"], found["high"]
    interval = {0: "", 1: "one seed"}.get(found["n"], f"{low:+.1f} to {high:+.1f}")
    verdict = found["verdict"] if found["n"] or not len(values) else "baseline not run"
    return {"gain": found["mean"], "95 % interval": interval, "verdict": verdict}


def _paper(value: float | None, base: float | None, reference: str | None) -> dict:
    gain = math.nan if reference is None or None in (value, base) else value - base
    return {"paper mIoU %": math.nan if value is None else value, "paper gain": gain}
