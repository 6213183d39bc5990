"""The numbers behind a table of a study: scores, gains, costs, and what the paper prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from segkd.config import RunConfig
from segkd.study.numbers import costs
from segkd.study.numbers.results import metrics_by_seed, paired
from segkd.study.numbers.show import TIE
from segkd.study.numbers.statistics import half_width
from segkd.study.tables.reported import reported
from segkd.study.tables.table import Row, Table


def summary(table: Table, results: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """A paper's table as we measured it: mIoU in percent, spread over seeds, cost, and the paper's values beside it.

    ``results`` holds this table's tidy lines. Rows without a finished run stay in, marked ``not run``. Gains are paired by
    seed, against ``reference`` or, in a table of several students, against the baseline of the row's own; a row's mean is
    over the seeds that both have, as the mean of its reference (``reference %``) is. The paper's gain is as it prints it, else
    computed from its scores.
    """
    value = {label: metrics_by_seed(group) for label, group in results.groupby("row")}
    paper = {row.label: reported(table, row) for row in table.rows}
    lines = []
    for row in table.rows:
        base = base_row(table, row, reference)
        values, other = (100 * value[label]["miou"].dropna() if label in value else pd.Series(dtype=float) for label in (row.label, base))
        both = values.index.intersection(other.index) if base else values.index
        values = values[both] if len(both) else values
        spread, printed, gain = values.std(ddof=1), paper[row.label], reported(table, row, "miou_gain")
        computed = printed - paper.get(base, math.nan) if math.isnan(gain) else math.nan
        lines.append(
            {"row": row.label, "runs": len(values), "mIoU %": values.mean(), "± sd": spread, "± 95 %": half_width(spread, len(values))}
            | _gain(values, other, base)
            | {"paper mIoU %": printed, "paper gain": gain, "paper gain (computed)": computed}
            | ({"val mIoU %": 100 * value[row.label]["val_last"].mean()} if row.tuning is not None and row.label in value else {})
        )
    return pd.DataFrame(lines)


def base_row(table: Table, row: Row, reference: str | None) -> str | None:
    """Label of the row that a row's gain is against; None: it has none."""
    if row.role != "student":
        return None
    own = [r.label for r in table.rows if r.group and r.group == row.group and r.spec == "baseline" and not r.control]
    base = own[0] if own and reference == "baseline" else reference
    return None if base == row.label else base


def _gain(values: pd.Series, base: pd.Series, reference: str | None) -> dict:
    if reference is None:
        return {"reference %": math.nan, "gain": math.nan, "95 % interval": "", "verdict": "" if len(values) else "not run"}
    found = paired(values, base)
    verdict = found.verdict if found.n or not len(values) else "reference not run"
    mean = base[base.index.isin(values.index)].mean()
    return {"reference %": mean, "gain": found.mean, "95 % interval": found.interval.replace(" ", TIE), "verdict": verdict}


def cost_columns(
    table: Table, results: pd.DataFrame, reference: str | None, configs: Mapping[str, RunConfig], longer: Callable[[Row], pd.Series]
) -> tuple[pd.DataFrame, bool]:
    """What stands beside `summary`, a line a row: costs, gain at equal time, the paper's costs; and whether steps were timed alone.

    ``configs``: of a row's first seed, by label. ``longer``: the scores, by seed, of the longer training of a baseline's row.
    """
    value = {label: metrics_by_seed(group) for label, group in results.groupby("row")}
    times, alone = costs.step_ms(configs, value)
    lines = []
    for row in table.rows:
        base = next((r for r in table.rows if r.label == base_row(table, row, reference)), None)
        found = costs.printed_costs(table, row)
        if "paper minutes" in found and base:
            found["paper time ratio"] = found["paper minutes"] / costs.printed_costs(table, base)["paper minutes"]
        if "paper mAcc %" in found:
            found["mAcc %"] = 100 * value[row.label]["macc"].mean() if row.label in value else math.nan
        extra = costs.extra_parameters(configs[row.label]) if row.role == "student" else math.nan
        plain = base and base.spec == "baseline" and not base.control and row.control != "longer" and row.tuning is None
        if plain and row.label in value and base.label in value:
            ratio = times[row.label] / times[base.label]
            gain, seeds = costs.equal_time_gain(value[row.label]["miou"], value[base.label]["miou"], longer(base), ratio)
            found |= {"time ratio": ratio, "gain at equal time": 100 * gain, "seeds at equal time": seeds}
        lines.append({"ms a step": times.get(row.label, math.nan), "extra parameters": extra, **found})
    return pd.DataFrame(lines), alone
