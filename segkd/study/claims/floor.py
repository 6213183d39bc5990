"""The rounding floor: how far scores move when nothing changes but the last digit of the start weights (table "floor")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from segkd.runs import find
from segkd.study.numbers.statistics import LEVEL, Spread, pooled_spread
from segkd.study.numbers.study import Study
from segkd.study.tables.papers import COMPARISON, comparison_rows

TABLE = "floor"
AS_IT_IS = "rounding=0"  # the level, in tidy results, of a row that is no copy


@dataclass(frozen=True)
class Floor:
    """Spreads in points of mIoU: of runs over copies that are only rounded otherwise, and of rows over seeds."""

    rounding: Spread
    seeds: Spread

    def __str__(self) -> str:
        return f"rounding alone: {self.rounding}; seeds: {self.seeds}"


EXACT = Floor(Spread(0.0, 0.0, 0.0, 1, 0), Spread(0.0, 0.0, 0.0, 1, 0))  # any x86-64 CPU gives the same digits (docs/trust.md)


def floors_of(results: pd.DataFrame) -> dict[str, Floor]:
    """The floor of students and of teachers, by role, from tidy results; a role without copies has none.

    A row and its copies share role, method and seed: the variance within such groups is pooled. So is, of the runs as they
    are, that over the seeds of a row.
    """
    lines = results[(results["paper"] == COMPARISON) & (results["table"] == TABLE) & (results["metric"] == "miou")]
    found = {}
    for role, mine in lines.assign(value=100 * lines["value"].astype(float)).groupby("role"):
        plain = mine[mine["level"] == AS_IT_IS]
        pooled = [pooled_spread(group for _, group in part.groupby(by)["value"]) for part, by in ((mine, ["method", "seed"]), (plain, "method"))]
        if pooled[0].df:
            found[role] = Floor(*pooled)
    return found


def study_floors(study: Study) -> dict[str, Floor]:
    """`floors_of` the finished runs of a study's profile and data, whichever paper it is of; without copies, `EXACT` in float64."""
    runs = [(row, find(study.config(row, seed))) for row in comparison_rows(TABLE).values() for seed in study.seeds]
    lines = [
        {"paper": COMPARISON, "table": TABLE, "role": row.role, "method": row.spec, "level": f"rounding={row.level['rounding']}",
         "seed": run.config.seed, "metric": "miou", "value": run.result["miou"]}
        for row, run in runs if run.done
    ]  # fmt: skip
    found = floors_of(pd.DataFrame(lines)) if lines else {}
    return found or (dict.fromkeys(("student", "teacher"), EXACT) if study.schedule.precision == "float64" else {})


def reach(floors: Mapping[str, Floor], roles: Iterable[str], weights: Iterable[float], n: int = 1) -> float:
    """How many points rounding alone moves a weighted sum of scores, averaged over ``n`` seeds: 95 of 100 are within.

    t · sd · sqrt(Σ w² / n), with the larger of the floors of the ``roles``; NaN if one of them is not known.
    """
    known = [floors.get(role) for role in roles]
    if None in known:
        return math.nan
    from scipy.stats import t

    most = max((floor.rounding for floor in known), key=lambda spread: spread.sd)
    return float(t.ppf(1 - LEVEL / 2, most.df)) * most.sd * math.sqrt(sum(w * w for w in weights) / n)
