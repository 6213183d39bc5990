"""The claims of the four papers, tested on this study's runs: a verdict each, with effect, interval, n, runs and reason."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from segkd.config import ROOT, RunConfig
from segkd.registry import UserError, unknown
from segkd.runs import Run
from segkd.study.claim_checks import CHECKS
from segkd.study.claim_parts import Cell, Comparison, Test, config_of
from segkd.study.claim_tests import TESTS
from segkd.study.executor import execute
from segkd.study.frozen import find_run
from segkd.study.jobs import with_teachers
from segkd.study.measures import JOINT, POINTS, RATIO, SINGLE, unit_of
from segkd.study.statistics import LEVEL, Estimate, bootstrap_interval, holm, joint_p, resampled_miou, t_estimate
from segkd.study.study import Study

CLAIMS = ROOT / "data" / "papers" / "claims.csv"
HEADLINE_SEEDS = 5
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN, CANNOT = (
    "supported", "contradicted", "inconclusive", "not run", "cannot be tested here",
)  # fmt: skip
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN, CANNOT)


@dataclass(frozen=True)
class Measured:
    """One comparison on this study's runs. ``images``: 95 % bootstrap interval over test images, None where it has none."""

    comparison: Comparison
    estimate: Estimate
    runs: tuple[str, ...] = ()
    images: tuple[float, float] | None = None
    missing: str = ""  # why there is no value at all


@dataclass(frozen=True)
class Outcome:
    """A claim, what was measured of it, and its verdict. ``p`` is of the claim alone, ``p_holm`` within its family."""

    claim: dict[str, str]
    verdict: str
    reason: str
    parts: tuple[Measured, ...] = ()
    p: float = math.nan
    p_holm: float = math.nan
    supports: bool = True
    weakest: Measured | None = None

    @property
    def family(self) -> str:
        """Claims that share one correction: paper x kind."""
        return f"{self.claim['paper']} / {self.claim['kind']}"


@functools.cache
def claims() -> pd.DataFrame:
    """``data/papers/claims.csv``: every claim of the papers that can be tested."""
    return pd.read_csv(CLAIMS, dtype=str, keep_default_na=False)


def test_of(claim: str) -> Test:
    """The test of a claim by its id; UserError with the nearest id."""
    if claim not in TESTS:
        raise unknown("claim", claim, TESTS)
    return TESTS[claim]


test_of.__test__ = False  # no test of pytest's


def evaluate(study: Study, ids: Iterable[str] | None = None) -> list[Outcome]:
    """The outcomes of the claims (None: all), corrected within each family of those that could be tested."""
    chosen = list(ids) if ids is not None else list(claims()["id"])
    rows = claims().set_index("id", drop=False)
    found = [_outcome(study, rows.loc[name].to_dict(), test_of(name)) for name in chosen]
    adjusted = {}
    for family in {o.family for o in found}:
        members = [o for o in found if o.family == family]
        adjusted |= {o.claim["id"]: p for o, p in zip(members, holm([o.p for o in members]))}
    return [_judged(o, adjusted[o.claim["id"]]) for o in found]


def _outcome(study: Study, claim: dict[str, str], test: Test) -> Outcome:
    why_not = cannot(study, test)
    if why_not:
        return Outcome(claim, CANNOT, why_not)
    if test.check:
        holds, text = CHECKS[test.check]()
        return Outcome(claim, SUPPORTED if holds else CONTRADICTED, f"needs no training: {text}")
    parts = tuple(measure(study, comparison) for comparison in test.comparisons)
    absent = [part for part in parts if part.missing]
    known = [part for part in parts if not part.missing]
    if absent:
        reason = f"{len(known)} of {len(parts)} comparisons measured; {absent[0].comparison.what}: {absent[0].missing}"
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


def _judged(outcome: Outcome, p_holm: float) -> Outcome:
    if outcome.verdict != INCONCLUSIVE:
        return outcome
    verdict = INCONCLUSIVE if not p_holm < LEVEL else SUPPORTED if outcome.supports else CONTRADICTED
    return replace(outcome, verdict=verdict, reason=_about_seeds(outcome.parts), p_holm=p_holm)


def _about_seeds(parts: Sequence[Measured]) -> str:
    """What the number of seeds forbids."""
    counts = [part.estimate.n for part in parts]
    single, fewest = sum(n < 2 for n in counts), min(counts)
    if single:
        return "one seed: no interval over seeds" + (f" in {single} of {len(parts)} comparisons" if single < len(parts) else "")
    return f"{fewest} seeds: a headline needs {HEADLINE_SEEDS}" if fewest < HEADLINE_SEEDS else ""


def measure(study: Study, comparison: Comparison) -> Measured:
    """A comparison on the seeds of the study for which all its cells are trained."""
    by_seed = {seed: [find_run(config_of(study, cell, seed)) for cell in comparison.cells] for seed in study.seeds}
    done = {seed: runs for seed, runs in by_seed.items() if all(r.done for r in runs)}
    nothing = t_estimate([])
    if not done:
        first = next(iter(by_seed.values()))
        labels = [cell.label for cell, r in zip(comparison.cells, first) if not r.done]
        return Measured(comparison, nothing, missing="not trained: " + ", ".join(labels))
    try:
        values = {seed: _value(comparison, runs, [r for s, r in done.items() if s != seed]) for seed, runs in done.items()}
    except UserError as error:
        return Measured(comparison, nothing, missing=str(error))
    values = {seed: v for seed, v in values.items() if math.isfinite(v)}
    if not values:
        return Measured(comparison, nothing, missing=f"'{comparison.measure}' has no value on these runs")
    used = [r for seed in values for r in done[seed]]
    ids = tuple(dict.fromkeys(r.id for r in used))
    return Measured(comparison, t_estimate(list(values.values()), comparison.limit), ids, over_images(comparison, list(map(done.get, values))))


def _value(comparison: Comparison, runs: list[Run], others: list[list[Run]]) -> float:
    if comparison.joint:
        return JOINT[comparison.measure][1](runs, others)
    single = SINGLE[comparison.measure][1]
    return math.fsum(weight * single(r) for weight, r in zip(comparison.weights, runs))


def over_images(comparison: Comparison, by_seed: list[list[Run]]) -> tuple[float, float] | None:
    """Bootstrap interval over test images of a difference of mIoU, in points: the same images for all runs and seeds.

    None for another measure, and for runs that did not keep the counts of each image.
    """
    if comparison.measure != "miou" or comparison.joint:
        return None
    total = 0.0
    for runs in by_seed:
        for weight, one in zip(comparison.weights, runs):
            written = one.path / "result.json"
            drawn = _resampled(str(one.path), written.stat().st_mtime_ns if written.exists() else 0, one)
            if drawn is None:
                return None
            total = total + 100 * weight * drawn / len(by_seed)
    return bootstrap_interval(np.asarray(total))


_drawn: dict[tuple, np.ndarray | None] = {}


def _resampled(path: str, changed: int, run: Run) -> np.ndarray | None:
    if (path, changed) not in _drawn:
        counts = run.images()
        _drawn[path, changed] = None if counts is None else resampled_miou(counts)
    return _drawn[path, changed]


def wanted_configs(study: Study, ids: Iterable[str] | None = None) -> list[RunConfig]:
    """The runs that the claims (None: all that can be tested) need, teachers included, each once."""
    tests = [test_of(name) for name in (ids if ids is not None else TESTS)]
    cells: list[Cell] = [cell for test in tests if not cannot(study, test) for cell in test.cells]
    return list(with_teachers(config_of(study, cell, seed) for cell in cells for seed in study.seeds).values())


def missing_configs(study: Study, ids: Iterable[str] | None = None) -> list[RunConfig]:
    """Those of `wanted_configs` that are not there."""
    return [config for config in wanted_configs(study, ids) if not find_run(config).done]


def train(study: Study, ids: str | Iterable[str]) -> None:
    """Train what the claims need and what is not there. UserError: an id that is not there, or a claim that cannot be tested."""
    chosen = [name.strip() for name in ids.split(",")] if isinstance(ids, str) else list(ids)
    for name in chosen:
        if why_not := cannot(study, test_of(name)):
            raise UserError(f"claim {name} cannot be tested with {study.profile.name} on {study.dataset}: {why_not}")
    execute(missing_configs(study, chosen), study.devices)


def frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One line a claim, as numbers: what the tables, the forest plot and the sentences are made of.

    ``effect``, ``low``, ``high`` (t interval over seeds), ``image_low``, ``image_high`` (bootstrap over test images) and
    ``limit`` are of the part that decides, in ``unit``: points, ratio (to 1) or none.
    """
    return pd.DataFrame([_line(o) for o in outcomes])


def _line(o: Outcome) -> dict[str, object]:
    found = o.weakest
    line = {key: o.claim[key] for key in ("id", "paper", "claim", "kind", "reported_support")}
    line |= {"family": o.family, "verdict": o.verdict, "reason": o.reason, "note": test_of(o.claim["id"]).note if found else ""}
    e = found.estimate if found else t_estimate([])
    unit = unit_of(found.comparison.measure) if found else ""
    shown = np.exp if unit == RATIO else lambda v: v
    images = (found.images if found else None) or (math.nan, math.nan)
    limit = found.comparison.limit if found else math.nan
    numbers = zip(("effect", "low", "high", "image_low", "image_high", "limit"), (e.mean, e.low, e.high, *images, limit))
    line |= {key: float(shown(number)) for key, number in numbers}
    parts = [m for m in o.parts if not m.missing]
    agree = sum(m.estimate.mean > m.comparison.limit for m in parts)
    runs = dict.fromkeys(run for m in o.parts for run in m.runs)
    return line | {
        "unit": unit, "comparison": found.comparison.what if found else "", "n": e.n, "p": o.p, "p_holm": o.p_holm,
        "agree": agree, "measured": len(parts), "comparisons": len(o.parts), "runs": " ".join(runs),
    }  # fmt: skip


def is_points(found: pd.DataFrame) -> pd.Series:
    """Which lines of ``frame`` have an effect in points of IoU or accuracy."""
    return (found["unit"] == POINTS) & found["effect"].notna()
