"""Runs to numbers: tidy results, and paired differences with an interval."""

from __future__ import annotations

import pandas as pd

from segkd.study.numbers.statistics import Estimate, t_estimate
from segkd.study.tables.table import Row

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


def paired(ours: pd.Series, other: pd.Series) -> Estimate:
    """The difference of two rows over the seeds that both have; they are indexed by seed."""
    return t_estimate((ours - other).dropna())


def metrics_by_seed(group: pd.DataFrame) -> pd.DataFrame:
    """Tidy lines of one row as a line a seed, a column a metric."""
    group = group[group["metric"].isin(METRICS)].astype({"value": float})
    wide = group.pivot_table(index="seed", columns="metric", values="value")
    return wide.reindex(columns=list(METRICS))
