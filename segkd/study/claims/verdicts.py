"""The claims of the four papers, tested on this study's runs: a verdict each, with effect, interval, n, runs and reason."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from segkd.config import ROOT, RunConfig
from segkd.registry import UserError, unknown
from segkd.runs import find
from segkd.study.claims.checks import CHECKS
from segkd.study.claims.floor import Floor, reach, study_floors
from segkd.study.claims.measure import Measured, measure
from segkd.study.claims.measures import POINTS, RATIO, unit_of
from segkd.study.claims.parts import TIME, Cell, Test, config_of
from segkd.study.claims.premises import NOT_MET, OPEN, Found, premise
from segkd.study.claims.tests import TESTS
from segkd.study.execute.executor import execute
from segkd.study.execute.jobs import with_teachers
from segkd.study.numbers.statistics import LEVEL, holm, joint_p, smallest_effect, t_estimate
from segkd.study.numbers.study import Study

HEADLINE_SEEDS = 5
VERDICTS = ("supported", "contradicted", "inconclusive", "premise not met", "not run", "cannot be tested here")
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NO_PREMISE, NOT_RUN, CANNOT = VERDICTS


@dataclass(frozen=True)
class Outcome:
    """A claim, what was measured of it, and its verdict. ``p`` is of the claim alone, ``p_holm`` among all that were tested.

    ``floor``: what rounding alone may do to the part that decides, in points; NaN where it is not known or no mIoU.
    """

    claim: dict[str, str]
    verdict: str
    reason: str
    parts: tuple[Measured, ...] = ()
    p: float = math.nan
    p_holm: float = math.nan
    supports: bool = True
    weakest: Measured | None = None
    floor: float = math.nan


@functools.cache
def claims() -> pd.DataFrame:
    """``data/papers/claims.csv``: every claim of the papers that can be tested."""
    return pd.read_csv(ROOT / "data" / "papers" / "claims.csv", dtype=str, keep_default_na=False)


def test_of(claim: str) -> Test:
    """The test of a claim by its id; UserError with the nearest id."""
    if claim not in TESTS:
        raise unknown("claim", claim, TESTS)
    return TESTS[claim]


test_of.__test__ = False  # no test of pytest's


def judge(study: Study, ids: Iterable[str] | None = None) -> list[Outcome]:
    """The outcomes of the claims (None: all); all that rest on training and whose premises are met are corrected together."""
    chosen = list(ids) if ids is not None else list(claims()["id"])
    rows = claims().set_index("id", drop=False)
    found = [_outcome(study, rows.loc[name].to_dict(), test_of(name)) for name in chosen]
    needed = [test_of(o.claim["id"]).premises or () if o.verdict == INCONCLUSIVE else () for o in found]
    known = {name: premise(study, name) for name in dict.fromkeys(name for names in needed for name in names)}
    found = [_on_premises(o, [known[name] for name in names]) for o, names in zip(found, needed)]
    floors = study_floors(study)
    return [_judged(o, p, floors) for o, p in zip(found, holm([o.p for o in found]))]


def _outcome(study: Study, claim: dict[str, str], test: Test) -> Outcome:
    if why_not := cannot(study, test):
        return Outcome(claim, CANNOT, why_not)
    if test.check:
        holds, text = CHECKS[test.check]()
        return Outcome(claim, SUPPORTED if holds else CONTRADICTED, f"needs no training: {text}")
    parts = tuple(measure(study, comparison) for comparison in test.comparisons)
    known = [part for part in parts if not part.missing]
    if absent := next((part for part in parts if part.missing), None):
        reason = f"{len(known)} of {len(parts)} comparisons measured; {absent.comparison.what}: {absent.missing}"
        return Outcome(claim, NOT_RUN, reason, parts, weakest=_weakest(known))
    p, supports = joint_p([part.estimate for part in parts])
    return Outcome(claim, INCONCLUSIVE, "", parts, p, supports=supports, weakest=_weakest(known, supports))


def cannot(study: Study, test: Test) -> str:
    """Why the study cannot test a claim, or nothing."""
    student, dataset = study.profile.student, study.dataset
    if test.why_not:
        return test.why_not
    if test.datasets and dataset not in test.datasets:
        return f"is about {' and '.join(test.datasets)}, and this study's data is {dataset}. {test.note}".strip()
    if test.start == "imagenet" and student.weights is None:
        return "students start from random weights at this profile; the same comparison from there is lad-06"
    if test.start == "random" and student.weights is not None:
        return "students start from trained weights at this profile; the same comparison from there is lad-01"
    if test.full_width and student.width != 1:
        return f"needs ImageNet weights, which are for full width; this profile's student has width {student.width:g}"
    return ""


def _weakest(parts: Sequence[Measured], supports: bool = True) -> Measured | None:
    """The part that decides: the least supported one, or, of a claim that is contradicted, the most opposed one."""
    if not parts:
        return None
    worst = lambda m: (m.estimate.p_above, m.estimate.mean) if supports else (-m.estimate.p_below, m.estimate.mean)  # noqa: E731
    tested = [m for m in parts if not math.isnan(m.estimate.p_above)]
    return max(tested, key=worst) if tested else min(parts, key=lambda m: m.estimate.mean - m.comparison.limit)


def _on_premises(outcome: Outcome, premises: Sequence[Found]) -> Outcome:
    """PREMISE NOT MET if one of them is not; else as it is, with a reason that names those that are open."""
    if failed := [str(one) for one in premises if one.state == NOT_MET]:
        return replace(outcome, verdict=NO_PREMISE, reason="; ".join(failed), p=math.nan)
    still = [f"open premise: {one}" for one in premises if one.state == OPEN]
    return replace(outcome, reason="; ".join(still) or outcome.reason)


def _judged(outcome: Outcome, p_holm: float, floors: Mapping[str, Floor]) -> Outcome:
    """The verdict by corrected p; an effect that rounding alone may make is inconclusive whatever the seeds say."""
    if outcome.verdict != INCONCLUSIVE:
        return outcome
    verdict = INCONCLUSIVE if not p_holm < LEVEL else SUPPORTED if outcome.supports else CONTRADICTED
    deciding = [] if verdict == INCONCLUSIVE else outcome.parts if verdict == SUPPORTED else [outcome.weakest]
    inside, by_floor = about_floor([part for part in deciding if _of_miou(part)], floors)
    reason = "; ".join(filter(None, (by_floor, outcome.reason, about_seeds(outcome.parts))))
    verdict = INCONCLUSIVE if inside else verdict
    return replace(outcome, verdict=verdict, reason=reason, p_holm=p_holm, floor=_moved(outcome.weakest, floors))


def about_floor(parts: Sequence[Measured], floors: Mapping[str, Floor]) -> tuple[bool, str]:
    """Whether rounding alone may make one of these differences of mIoU, and what is to be said of it."""
    moved = [(part.estimate.mean - part.comparison.limit, _moved(part, floors)) for part in parts]
    if inside := [points for effect, points in moved if abs(effect) <= points]:
        return True, f"inside the rounding floor: rounding alone moves this by ±{inside[0]:.1f} points"
    return False, "the rounding floor is not measured" if any(math.isnan(points) for _, points in moved) else ""


def _of_miou(part: Measured) -> bool:
    return part.comparison.measure == "miou"


def _moved(part: Measured, floors: Mapping[str, Floor]) -> float:
    """How many points of a weighted sum of mIoU rounding alone may make; NaN of another measure, or where it is not known."""
    if not _of_miou(part):
        return math.nan
    roles = ["student" if cell.row.role == "student" else "teacher" for cell in part.comparison.cells]
    return reach(floors, roles, part.comparison.weights, part.estimate.n)


def about_seeds(parts: Sequence[Measured]) -> str:
    """What the number of seeds forbids."""
    counts = [part.estimate.n for part in parts if part.comparison.measure != TIME]
    if single := sum(n < 2 for n in counts):
        return "one seed: no interval over seeds" + (f" in {single} of {len(counts)} comparisons" if single < len(counts) else "")
    return f"{min(counts)} seeds: a headline needs {HEADLINE_SEEDS}" if counts and min(counts) < HEADLINE_SEEDS else ""


def wanted_configs(study: Study, ids: Iterable[str] | None = None) -> list[RunConfig]:
    """The runs that the claims (None: all that can be tested) need, teachers included, each once."""
    tests = [test_of(name) for name in (ids if ids is not None else TESTS)]
    cells: list[Cell] = [cell for test in tests if not cannot(study, test) for cell in test.cells]
    return list(with_teachers(config_of(study, cell, seed) for cell in cells for seed in study.seeds).values())


def missing_configs(study: Study, ids: Iterable[str] | None = None) -> list[RunConfig]:
    """Those of `wanted_configs` that are not there."""
    return [config for config in wanted_configs(study, ids) if not find(config).done]


def train(study: Study, ids: str | Iterable[str]) -> None:
    """Train what the claims need and what is not there. UserError: an id that is not there, or a claim that cannot be tested."""
    chosen = [name.strip() for name in ids.split(",")] if isinstance(ids, str) else list(ids)
    for name in chosen:
        if why_not := cannot(study, test_of(name)):
            raise UserError(f"claim {name} cannot be tested with {study.profile.name} on {study.dataset}: {why_not}")
    execute(missing_configs(study, chosen), study.devices)


def frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One line a claim, as numbers: what the tables, the forest plot and the sentences are made of.

    ``effect``, ``low``, ``high`` (t interval over seeds), ``image_low``, ``image_high`` (bootstrap over test images),
    ``limit``, ``smallest`` (the smallest effect that would have been seen with power 0.8) and ``floor`` (of rounding, in
    points) are of the part that decides, in ``unit``: points, ratio (to 1) or none. ``same_as``: an earlier claim that the
    same comparison decides the same way, which counts once.
    """
    lines, first = [], {}
    for o in outcomes:
        earlier = first.setdefault(_deciding(o), o.claim["id"])
        lines.append(_line(o) | {"same_as": "" if earlier == o.claim["id"] else earlier})
    return pd.DataFrame(lines)


def _deciding(o: Outcome) -> object:
    """What the verdict of a claim rests on: equal of two claims that one comparison decides."""
    if o.verdict not in (SUPPORTED, CONTRADICTED) or not o.parts:
        return o.claim["id"]
    parts = o.parts if o.verdict == SUPPORTED else [o.weakest]
    return o.verdict, frozenset((m.runs, m.comparison.measure, m.comparison.weights, m.comparison.limit) for m in parts)


def _line(o: Outcome) -> dict[str, object]:
    found = o.weakest
    line = {key: o.claim[key] for key in ("id", "paper", "claim", "kind", "reported_support")} | {"verdict": o.verdict}
    line |= {"reason": o.reason, "note": test_of(o.claim["id"]).note if found else ""}
    line |= in_unit(found)
    parts = [m for m in o.parts if not m.missing]
    agree = sum(m.estimate.mean > m.comparison.limit for m in parts)
    runs = dict.fromkeys(run for m in o.parts for run in m.runs)
    return line | {
        "comparison": found.comparison.what if found else "", "p": o.p, "p_holm": o.p_holm, "floor": o.floor,
        "agree": agree, "measured": len(parts), "comparisons": len(o.parts), "runs": " ".join(runs),
    }  # fmt: skip


def in_unit(found: Measured | None) -> dict[str, object]:
    """What was measured as `frame` has it: numbers in their ``unit``, ratios not their logarithms, and ``n``."""
    e = found.estimate if found else t_estimate([])
    unit = unit_of(found.comparison.measure) if found else ""
    images = (found.images if found else None) or (math.nan, math.nan)
    numbers = {
        "effect": e.mean, "low": e.low, "high": e.high, "image_low": images[0], "image_high": images[1],
        "limit": found.comparison.limit if found else math.nan, "smallest": smallest_effect(e.sd, e.n),
    }  # fmt: skip
    return {key: float(np.exp(number) if unit == RATIO else number) for key, number in numbers.items()} | {"unit": unit, "n": e.n}


def is_points(found: pd.DataFrame) -> pd.Series:
    """Which lines of ``frame`` have an effect in points of IoU or accuracy."""
    return (found["unit"] == POINTS) & found["effect"].notna()
