"""What a comparison comes to on this study's runs: one number a seed, its interval over seeds and over test images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from segkd.registry import UserError
from segkd.runs import Run, find
from segkd.study.claims.measures import JOINT, SINGLE
from segkd.study.claims.parts import TIME, Comparison, config_of
from segkd.study.tables import step_times
from segkd.study.tables.statistics import Estimate, bootstrap_interval, resampled_miou, t_estimate
from segkd.study.tables.study import Study


@dataclass(frozen=True)
class Measured:
    """One comparison on this study's runs. ``images``: 95 % bootstrap interval over test images, None where it has none."""

    comparison: Comparison
    estimate: Estimate
    runs: tuple[str, ...] = ()
    images: tuple[float, float] | None = None
    missing: str = ""  # why there is no value at all


def measure(study: Study, comparison: Comparison) -> Measured:
    """A comparison on the seeds of the study for which all its cells are trained; of time, on the rounds of a benchmark."""
    if comparison.measure == TIME:
        return _timed(study, comparison)
    by_seed = {seed: [find(config_of(study, cell, seed)) for cell in comparison.cells] for seed in study.seeds}
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


def _timed(study: Study, comparison: Comparison) -> Measured:
    """Steps measured by themselves, paired by round: a run's own clock also counts what else the machine did."""
    known, nothing = step_times.rounds(step_times.ALONE), t_estimate([])
    times = [known.get(step_times.digest(config_of(study, cell, study.seeds[0]))) for cell in comparison.cells]
    lacking = ", ".join(cell.label for cell, own in zip(comparison.cells, times) if own is None)
    if lacking:
        how = f"python benchmarks/methods.py --profile {study.profile.name} --dataset {study.dataset}"
        return Measured(comparison, nothing, missing=f"not measured by themselves: {lacking} ({how})")
    logs = np.log([own[: min(map(len, times))] for own in times])
    return Measured(comparison, t_estimate(np.asarray(comparison.weights) @ logs, comparison.limit))


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
