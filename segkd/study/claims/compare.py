"""Runs that are here against the committed results of a report: trained again, does the same come out?"""

from __future__ import annotations

import io
import math
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd

from segkd.config import ROOT, runs_root
from segkd.registry import UserError, unknown
from segkd.runs import load_run
from segkd.study.claims.floor import Floor, floors_of, reach
from segkd.study.numbers.frozen import altered, read_results, warning
from segkd.study.numbers.statistics import half_width

DIGITS = 6  # behind the point of a score or an IoU in [0, 1]; results.csv keeps nine
EQUAL, WITHIN, DIFFERS = "equal", "within rounding", "differs"
APART = ("seconds", "teacher_seconds", "peak_memory", "parameters")  # how metrics begin that do not come out of the training


def compare_lines(report: str, root: Path = ROOT / "reports") -> Iterator[str]:
    """What `segkd compare` prints. ``report``: a folder's name, such as scratch-camvid. UserError if it has no results."""
    folder = root / report
    if not (folder / "results.csv").exists():
        raise unknown("report", report, [path.parent.name for path in root.glob("*/results.csv")])
    results = read_results(folder / "results.csv")
    found = compared(results)
    yield from (warning(folder, name) for name in altered(folder, ("results.csv",)))
    if found.empty:
        raise UserError(f"none of the {results['run'].nunique()} runs of {report} is finished in {runs_root()}: train some first")
    shown = found.drop(columns=["role", "same", "gap", "metric"]).assign(committed=(100 * found["committed"]).map("{:.4f}".format), here=(100 * found["here"]).map("{:.4f}".format))
    shown["verdict"] = [one if one == EQUAL else f"{one} ({100 * gap:+.4f})" for one, gap in zip(found["verdict"], found["here"] - found["committed"])]
    yield from shown.to_string(index=False, justify="left", formatters={"run": str}).splitlines()
    floors = floors_of(results)
    yield from rows_in_words(found, floors)
    yield from (f"{role}s, {floor}" for role, floor in floors.items())
    yield f"{len(found)} of {results['run'].nunique()} runs are here"
    yield sentence(found)


def committed_results(folder: Path) -> pd.DataFrame | None:
    """The results of a report as git has them, whatever lies there now; None where it has none, or where there is no git."""
    try:
        said = subprocess.run(["git", "show", "HEAD:./results.csv"], cwd=folder, capture_output=True)
    except OSError:  # no such folder, or no git
        return None
    return None if said.returncode else pd.read_csv(io.BytesIO(said.stdout))


def sentence(found: pd.DataFrame) -> str:
    """How many of the `compared` runs equal the committed ones in every score and IoU, and how far off the others are."""
    head = f"{found['same'].sum()} of {len(found)} runs equal the committed results to {DIGITS} digits"
    if near := int((found["verdict"] == WITHIN).sum()):
        head += f", {near} more are within rounding"
    if found["same"].all():
        return head
    worst = found.loc[found["gap"].idxmax()]
    return f"{head}; largest difference {100 * worst['gap']:.4f} points, in {worst['metric']} of {worst['run']}"


def compared(results: pd.DataFrame) -> pd.DataFrame:
    """A line for each committed run that is finished here: row, role, seed, run, mIoU there and here, the largest gap, in
    which metric (scores, IoU of every class, validation), whether that is none to `DIGITS` digits, and the verdict.

    EQUAL: so it is. WITHIN: the scores differ by no more than rounding alone may make, by the committed floor. Else DIFFERS.
    """
    floors = floors_of(results)
    outcome = results[~results["metric"].str.startswith(APART)]
    lines = []
    for (row, seed, name), group in outcome.drop_duplicates(["run", "metric"]).groupby(["row", "seed", "run"], sort=False):
        if (run := _finished(name)) is None:
            continue
        known, said = dict(zip(group["metric"], group["value"])), run.result
        ours = said | {f"iou/{label}": value for label, value in zip(said["classes"], said["iou"])}
        gap, metric = max((abs(value - (ours.get(metric) or 0.0)), metric) for metric, value in known.items())
        same = gap <= 0.5 * 10**-DIGITS
        role = group["role"].iloc[0]
        near = 100 * abs(said["miou"] - known["miou"]) <= _allowed(floors, role)
        lines.append({
            "row": row, "role": role, "seed": seed, "run": name, "committed": known["miou"], "here": said["miou"], "gap": gap, "metric": metric,
            "same": same, "verdict": EQUAL if same else WITHIN if near else DIFFERS,
        })  # fmt: skip
    return pd.DataFrame(lines, columns="row role seed run committed here gap metric same verdict".split())


def _allowed(floors: Mapping[str, Floor], role: str, n: int = 1) -> float:
    """How many points two means of n runs of a role may be apart by rounding alone; NaN where that is not known."""
    return reach(floors, [role if role == "student" else "teacher"], (1, -1), n)


def rows_in_words(found: pd.DataFrame, floors: Mapping[str, Floor]) -> Iterator[str]:
    """Where runs differ: whether the mean of a row over its seeds does by more than rounding may make.

    In float32 other processors round otherwise. Where no floor is committed, that is taken to be as bad as another seed: the
    95 % half width of the difference of two means of n runs is sqrt(2) times that of one mean, from the committed spread.
    """
    for row, group in found.groupby("row", sort=False):
        if group["same"].all():
            continue
        gap, of = 100 * (group["here"] - group["committed"]).mean(), " of rounding"
        most = _allowed(floors, group["role"].iloc[0], len(group))
        if math.isnan(most):
            most, of = math.sqrt(2) * half_width(100 * float(group["committed"].std(ddof=1)), len(group)), ""
        fits = "no tolerance from one seed" if math.isnan(most) else f"{'within' if abs(gap) <= most else 'BEYOND'} ± {most:.2f}{of}"
        yield f"{row}: mean of {len(group)} seeds {gap:+.2f} points, {fits}"


def _finished(name: str):
    """The run, or None if it is not here or not done."""
    with suppress(UserError):
        return run if (run := load_run(name)).done else None
