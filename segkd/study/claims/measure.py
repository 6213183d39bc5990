"""What a comparison comes to on this study's runs: one number a seed, its interval over seeds and over test images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from segkd.registry import UserError
from segkd.runs import Run, find
from segkd.study.claims.measures import JOINT, of_run
from segkd.study.claims.parts import TIME, Comparison, config_of
from segkd.study.numbers import step_times
from segkd.study.numbers.statistics import Estimate, bootstrap_interval, resampled_miou, t_estimate
from segkd.study.numbers.study import Study


@dataclass(frozen=True)
class Measured:
    """One comparison on this study's runs. ``images``: 95 % bootstrap interval over test images, None where it has none."""

    comparison: Comparison
    estimate: Estimate = t_estimate([])
    runs: tuple[str, ...] = ()
    images: tuple[float, float] | None = None
    missing: str = ""  # why there is no value at all


def measure(study: Study, comparison: Comparison) -> Measured:
    """A comparison on the seeds of the study for which all its cells are trained; of time, on the rounds of a benchmark."""
    if comparison.measure == TIME:
        return _timed(study, comparison)
    by_seed = {seed: [find(config_of(study, cell, seed)) for cell in comparison.cells] for seed in study.seeds}
    done = {seed: runs for seed, runs in by_seed.items() if all(r.done for r in runs)}
    if not done:
        labels = [cell.label for cell, r in zip(comparison.cells, by_seed[study.seeds[0]]) if not r.done]
        return Measured(comparison, missing="not trained: " + ", ".join(labels))
    try:
        values = {seed: _value(comparison, runs, [r for s, r in done.items() if s != seed]) for seed, runs in done.items()}
    except UserError as error:
        return Measured(comparison, missing=str(error))
    values = {seed: v for seed, v in values.items() if math.isfinite(v)}
    if not values:
        return Measured(comparison, missing=f"'{comparison.measure}' has no value on these runs")
    used = [done[seed] for seed in values]
    ids = tuple(dict.fromkeys(r.id for runs in used for r in runs))
    return Measured(comparison, t_estimate(list(values.values()), comparison.limit), ids, over_images(comparison, used))


def _timed(study: Study, comparison: Comparison) -> Measured:
    """Steps measured by themselves, paired by round: a run's own clock also counts what else the machine did."""
    known = step_times.rounds(step_times.ALONE)
    times = [known.get(step_times.digest(config_of(study, cell, study.seeds[0]))) for cell in comparison.cells]
    if lacking := ", ".join(cell.label for cell, own in zip(comparison.cells, times) if own is None):
        how = f"python benchmarks/methods.py --profile {study.profile.name} --dataset {study.dataset}"
        return Measured(comparison, missing=f"not measured by themselves: {lacking} ({how})")
    logs = np.log([own[: min(map(len, times))] for own in times])
    return Measured(comparison, t_estimate(np.asarray(comparison.weights) @ logs, comparison.limit))


def _value(comparison: Comparison, runs: list[Run], others: list[list[Run]]) -> float:
    if comparison.joint:
        return JOINT[comparison.measure][1](runs, others)
    return math.fsum(weight * of_run(comparison.measure, r) for weight, r in zip(comparison.weights, runs))


def over_images(comparison: Comparison, by_seed: list[list[Run]]) -> tuple[float, float] | None:
    """Bootstrap interval over test images of a difference of mIoU, in points: the same images for all runs and seeds.

    None for another measure, and for runs that did not keep the counts of each image.
    """
    files = [[one.path / "images.npz" for one in runs] for runs in by_seed]
    if comparison.measure != "miou" or comparison.joint or not all(file.exists() for runs in files for file in runs):
        return None
    drawn = [[_resampled(file, file.stat().st_mtime_ns) for file in runs] for runs in files]
    total = sum(100 * weight * one / len(drawn) for runs in drawn for weight, one in zip(comparison.weights, runs))
    return bootstrap_interval(np.asarray(total))


@cache
def _resampled(counts: Path, changed: int) -> np.ndarray:
    with np.load(counts, allow_pickle=False) as found:
        return resampled_miou(found["counts"])
