"""Beyond the papers: sums of methods that no paper tried, ranked, and whether one beats every single method."""

from __future__ import annotations

import math

import pandas as pd

from segkd.runs import find
from segkd.study.claims.measure import Measured, measure
from segkd.study.claims.parts import Cell, config_of, method_cell, over
from segkd.study.claims.tests import baseline
from segkd.study.execute.executor import execute
from segkd.study.numbers.statistics import LEVEL, holm, joint_p, points, t_estimate
from segkd.study.numbers.study import Study
from segkd.study.tables.papers import SUMS, single_methods

SINGLE = tuple(Cell(row) for row in single_methods().values())
CELLS = tuple(method_cell(label, spec) for label, spec in SUMS.items())
BEATS, LOSES, OPEN, NOT_RUN = "beats every single method", "is beaten by one", "inconclusive", "not run"


def train_combinations(study: Study) -> None:
    """Train the combinations and the single methods that they are compared with, where they are not there."""
    execute([config_of(study, cell, seed) for cell in (baseline, *SINGLE, *CELLS) for seed in study.seeds], study.devices)


def ranked(study: Study) -> pd.DataFrame:
    """One line a combination or single method, best mean first: mIoU %, runs, gain over the baseline with its 95 %
    interval, and for a combination the single method it is least above, that difference, and the verdict.

    A combination beats every single method if it is above each of them; p of the largest, corrected (Holm) for the number
    of combinations.
    """
    against = {cell.label: [measure(study, c) for c in over(cell, SINGLE)] for cell in CELLS}
    tests = {label: joint_p([m.estimate for m in parts]) for label, parts in against.items()}
    adjusted = dict(zip(tests, holm([p for p, _ in tests.values()])))
    verdicts = {label: _against(parts, adjusted[label], tests[label][1]) for label, parts in against.items()}
    lines = [_line(study, cell) | verdicts.get(cell.label, {}) for cell in (baseline, *SINGLE, *CELLS)]
    return pd.DataFrame(lines).sort_values("mIoU %", ascending=False, na_position="last", ignore_index=True)


def _line(study: Study, cell: Cell) -> dict[str, object]:
    scores = [100 * r.result["miou"] for seed in study.seeds if (r := find(config_of(study, cell, seed))).done]
    line = {"row": cell.label, "runs": len(scores), "mIoU %": sum(scores) / len(scores) if scores else math.nan}
    gain = measure(study, over(cell, [baseline])[0]).estimate if cell != baseline else t_estimate([])
    return line | {"gain": gain.mean, "95 % interval": gain.interval}


def _against(parts: list[Measured], p: float, supports: bool) -> dict[str, object]:
    known = [m for m in parts if not m.missing]
    if not known:
        return {"verdict": NOT_RUN}
    least = min(known, key=lambda m: m.estimate.mean)
    verdict = OPEN if not p < LEVEL or len(known) < len(parts) else BEATS if supports else LOSES
    found = {"least above": least.comparison.cells[1].label, "by": least.estimate.mean}
    return found | {"interval of that": least.estimate.interval, "p (Holm)": p, "verdict": verdict}


def table_to_show(found: pd.DataFrame) -> pd.io.formats.style.Styler:
    """`ranked` as a table to show."""
    formats = {"mIoU %": "{:.1f}", "gain": points, "by": points, "p (Holm)": "{:.3f}"}
    kept = {column: text for column, text in formats.items() if column in found}
    texts = found.select_dtypes(exclude="number").columns
    return found.fillna({c: "" for c in texts}).style.hide(axis="index").format(kept, na_rep="–", escape="html")


def answer(found: pd.DataFrame) -> str:
    """Does a combination beat every single method? In one sentence, from `ranked`."""
    sums = found[found["verdict"].notna()]
    trained = sums[sums["verdict"] != NOT_RUN]
    if trained.empty:
        return "No combination is trained yet."
    best, winners = trained.iloc[0], trained[trained["verdict"] == BEATS]
    if len(winners):
        words = "{0[row]} is above {0[least above]}, its closest, by {0[by]:.1f} points"
        return f"Yes: {'; '.join(map(words.format, winners.to_dict('records')))}."
    detail = f"{best['row']}, the best of {len(trained)}, differs from {best['least above']} by {points(best['by'])} points"
    return f"No combination beats every single method with an interval that leaves zero out: {detail} ({best['interval of that']})."

