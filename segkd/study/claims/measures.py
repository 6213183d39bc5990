"""What a claim measures of finished runs: numbers of one run (scores, time) and of several runs together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from segkd.registry import unknown
from segkd.runs import Run
from segkd.study.claims import mechanisms
from segkd.study.claims.parts import TIME

EARLY = 0.2  # of the training: until then a warm-up of a tenth shows what it gives
ZERO = 1.0  # points of IoU, mean over seeds: a class below it is not found at all, and nothing can be lost or gained there
POINTS, RATIO, PLAIN = "points", "ratio", ""  # units: IoU in percent, exp of a difference of logarithms, the number itself


def _early_miou(run: Run) -> float:
    """mIoU on val at the last check in the first EARLY of the training; NaN if there was none."""
    until = EARLY * run.config.schedule.steps
    found = [row["miou"] for row in run.metrics() if row["kind"] == "val" and row["step"] <= until]
    return found[-1] if found else math.nan


SINGLE: dict[str, tuple[str, Callable[[Run], float]]] = {  # scores in [0, 1]; of ratios the ratio
    "miou": (POINTS, lambda run: run.result["miou"]),
    "macc": (POINTS, lambda run: run.result["macc"]),
    "early_miou": (POINTS, _early_miou),
    "thin_iou": (POINTS, mechanisms.thin_iou),
    "boundary_miou": (POINTS, mechanisms.boundary_miou),
    "image_drop": (POINTS, lambda run: mechanisms.input_scores(run)["drop_image"]),
    "label_drop": (POINTS, lambda run: mechanisms.input_scores(run)["drop_label"]),
    "plain_image_drop": (POINTS, lambda run: mechanisms.plain_image_drop(run)),
    "label_alone": (PLAIN, lambda run: mechanisms.input_scores(run)["kept_by_label"] - 0.5),
    "pairwise_kl": (RATIO, mechanisms.pairwise_kl),
    "activation": (RATIO, mechanisms.activation_ratio),
    "divergence_ratio": (RATIO, mechanisms.divergence_ratio),
    "silhouette": (PLAIN, mechanisms.feature_silhouette),
    "order_change": (PLAIN, mechanisms.order_change),
    "difficulty_right": (PLAIN, lambda run: mechanisms.difficulty_gaps(run)["right"]),
    "difficulty_inside": (PLAIN, lambda run: mechanisms.difficulty_gaps(run)["inside"]),
    "xor_balance": (PLAIN, mechanisms.xor_balance),
    "xor_balance_early": (PLAIN, lambda run: mechanisms.xor_balance(run, percent=10)),
}


def _iou(runs: Sequence[Run]) -> np.ndarray:
    """IoU in percent, a row a run; NaN for a class that is not there."""
    return 100 * np.array([run.result["iou"] for run in runs], dtype=float)


def _classes(runs: list[Run], others: list[list[Run]]) -> np.ndarray:
    """Indices of the classes that all runs of a seed have and that the first one finds: over all seeds, ZERO or more."""
    reference = np.array([_iou(one[:1])[0] for one in (runs, *others)])
    return np.flatnonzero(np.isfinite(_iou(runs).sum(0)) & (reference.mean(0) >= ZERO))


def _hard_minus_easy(runs: list[Run], others: list[list[Run]]) -> float:
    """Runs: reference, plain, method. Mean gain over plain in the harder half of the classes less that in the easier."""
    reference, plain, method = _iou(runs)
    known = _classes(runs, others)
    if len(known) < 2:
        return math.nan
    order = known[np.argsort(reference[known])]
    half = len(order) // 2
    gain = method - plain
    return float(gain[order[:half]].mean() - gain[order[half:]].mean())


def _repaired(runs: list[Run], others: list[list[Run]]) -> float:
    """Runs: reference, spoiler, method. Mean gain over the spoiler on classes where it lost against the reference on the
    other seeds: on its own seed a class that was low by chance would look repaired. NaN without such a class."""
    if not others:
        return math.nan
    lost = np.nanmean([reference - spoiler for reference, spoiler, _ in map(_iou, others)], axis=0) > 0
    _, spoiler, method = _iou(runs)
    known = _classes(runs, others)
    chosen = known[lost[known]]
    return float((method - spoiler)[chosen].mean()) if len(chosen) else math.nan


def _share_better(runs: list[Run], others: list[list[Run]]) -> float:
    """Runs: reference, plain, method. Share of classes on which the method is as good as plain or better, less a half."""
    _, plain, method = _iou(runs)
    known = _classes(runs, others)
    return float((method >= plain)[known].mean() - 0.5) if len(known) else math.nan


def _easy_gap(runs: list[Run], others: list[list[Run]]) -> float:
    """Runs: student, teacher. Mean gap between them less that on the third of the classes that the student knows best."""
    own, teacher = _iou(runs)
    known = _classes(runs, others)
    if not len(known):
        return math.nan
    easy = known[np.argsort(own[known])][-max(1, len(known) // 3) :]
    return float((teacher - own)[known].mean() - (teacher - own)[easy].mean())


def _teacher_rank(runs: list[Run], others: list[list[Run]]) -> float:
    """Runs: teacher, its student, next teacher, ... One half less the rank correlation of their mIoU."""
    from scipy.stats import spearmanr

    scores = [run.result["miou"] for run in runs]
    return 0.5 - float(spearmanr(scores[0::2], scores[1::2]).statistic)


JOINT: dict[str, tuple[str, Callable[[list[Run], list[list[Run]]], float]]] = {
    "hard_minus_easy": (POINTS, _hard_minus_easy),
    "repaired": (POINTS, _repaired),
    "share_better": (PLAIN, _share_better),
    "easy_gap": (POINTS, _easy_gap),
    "teacher_rank": (PLAIN, _teacher_rank),
}


def of_run(measure: str, run: Run) -> float:
    """A measure of one run: points, the natural logarithm of a ratio (NaN, no value, for what has none), or the number itself."""
    unit, number = SINGLE[measure]
    value = number(run)
    return 100 * value if unit == POINTS else value if unit == PLAIN else math.log(value) if value > 0 else math.nan


def unit_of(measure: str) -> str:
    """POINTS, RATIO or PLAIN. UserError with the nearest name for a measure that is not there."""
    found = (RATIO,) if measure == TIME else SINGLE.get(measure) or JOINT.get(measure)
    if found is None:
        raise unknown("measure", measure, [TIME, *SINGLE, *JOINT])
    return found[0]
