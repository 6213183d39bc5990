"""Statistics of paired comparisons: t intervals over seeds, a bootstrap over test images, claims of several parts, Holm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segkd.metrics import points

LEVEL = 0.05  # of every test; intervals hold 1 - LEVEL
POWER = 0.8  # of the smallest effect that is said to be seen
RESAMPLES = 10_000
FEW = 5  # fewer images give no interval
CHUNK = 1_000  # resamples at a time: the weights of a large test set would not fit into memory together


@dataclass(frozen=True)
class Estimate:
    """A mean difference over ``n`` seeds, its 95 % t interval, one-sided p values against a limit, standard deviation.

    ``p_above``: how surprising the values are if the true mean lies at or below the limit; ``p_below`` the reverse.
    Interval and p are NaN with fewer than two seeds.
    """

    n: int
    mean: float
    low: float
    high: float
    p_above: float
    p_below: float
    sd: float = math.nan

    @property
    def verdict(self) -> str:
        """What a paired difference says: ``higher`` or ``lower`` if its interval leaves 0 out, else ``inconclusive``; ``one run``, ``not run``."""
        if self.n < 2:
            return ("not run", "one run")[self.n]
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "inconclusive"

    @property
    def interval(self) -> str:
        """The 95 % interval of points as it is printed everywhere; without one, why."""
        if math.isnan(self.low):
            return {0: "", 1: "one seed"}.get(self.n, "equal values")
        return f"{points(self.low)} to {points(self.high)}"

    def __str__(self) -> str:
        return points(self.mean) + (f" ({self.interval})" if self.low == self.low else "")


def t_estimate(values: Sequence[float], limit: float = 0.0) -> Estimate:
    """Student's t for paired differences, one value a seed, against ``limit``; no value gives NaN everywhere.

    Equal values, as shares of a few classes may be, say nothing of their spread: no interval then, and p is 1.
    """
    values = np.asarray(values, dtype=np.float64)
    n, nan = len(values), math.nan
    mean = float(values.mean()) if n else nan
    if n < 2:
        return Estimate(n, mean, nan, nan, nan, nan)
    from scipy.stats import t

    sd = float(values.std(ddof=1))
    if sd == 0:
        return Estimate(n, mean, nan, nan, 1.0, 1.0, sd)
    half, score = half_width(sd, n), (mean - limit) / (sd / math.sqrt(n))
    return Estimate(n, mean, mean - half, mean + half, float(t.sf(score, n - 1)), float(t.cdf(score, n - 1)), sd)


def half_width(sd: float, n: int) -> float:
    """Half the 95 % t interval of a mean of ``n`` values with standard deviation ``sd``; NaN for fewer than two."""
    if n < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)


@dataclass(frozen=True)
class Spread:
    """A standard deviation pooled over groups, its 95 % interval, its degrees of freedom and how many runs it rests on."""

    sd: float
    low: float
    high: float
    df: int
    runs: int

    def __str__(self) -> str:
        if not self.df:
            return "not known"
        digits = ".1f" if self.sd >= 0.05 else ".1g"
        return f"±{self.sd:{digits}} ({self.low:{digits}} to {self.high:{digits}}; {self.runs} runs)"


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """Standard deviation within groups, from the sum of their squares, with its chi-square interval; NaN without any.

    A group of one value says nothing and is left out.
    """
    told = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
    runs, df = sum(map(len, told)), sum(len(group) - 1 for group in told)
    if not df:
        return Spread(math.nan, math.nan, math.nan, 0, 0)
    from scipy.stats import chi2

    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in told)
    low, high = (math.sqrt(squares / float(chi2.ppf(q, df))) for q in (1 - LEVEL / 2, LEVEL / 2))
    return Spread(math.sqrt(squares / df), low, high, df, runs)


def smallest_effect(sd: float, n: int) -> float:
    """The smallest true mean of ``n`` differences with standard deviation ``sd`` whose 95 % interval leaves 0 out with power POWER.

    By the noncentral t distribution; NaN for fewer than two values or without spread. One test, not corrected for others.
    """
    if n < 2 or not sd > 0:
        return math.nan
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    edge = float(t.ppf(1 - LEVEL / 2, n - 1))
    shift = brentq(lambda d: nct.sf(edge, n - 1, d) - POWER, 0.0, 5 * edge)  # the other side's chance is below 1e-4
    return float(shift) * sd / math.sqrt(n)


def joint_p(parts: Sequence[Estimate]) -> tuple[float, bool]:
    """Two-sided p of a statement that needs every part, and whether the evidence is for it (True) or against it.

    For it: all parts must be shown, so the largest of their p counts (an intersection-union test). Against it: one
    reversed part is enough, so the smallest p counts, times the number of parts (Bonferroni). Twice the smaller of the
    two, since the direction was not fixed in advance. NaN if a part has none.
    """
    above, below = [part.p_above for part in parts], [part.p_below for part in parts]
    if not parts or any(math.isnan(p) for p in above):
        return math.nan, True
    supports, opposes = max(above), min(1.0, len(parts) * min(below))
    return min(1.0, 2 * min(supports, opposes)), supports <= opposes


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given; NaN (nothing tested) stays NaN and does not count.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    values = np.asarray(values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * values[order]
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def resample_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each image is drawn, (at most CHUNK, images) at a time: draws with replacement, the same for every caller."""
    draws = np.random.default_rng([seed, images])
    for start in range(0, resamples, CHUNK):
        yield draws.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))


def resampled_iou(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """IoU of each class in each resample of the test images, (resamples, C); NaN: neither shown nor predicted there.

    ``counts`` (N, 3, C): of each image the true positives, label pixels and predicted pixels of each class.
    """
    images, _, classes = counts.shape
    flat = counts.reshape(images, -1).astype(np.float64)
    return np.concatenate([_iou((w @ flat).reshape(-1, 3, classes)) for w in resample_weights(images, resamples, seed)])


def _iou(counts: np.ndarray) -> np.ndarray:
    """IoU of each class (N, C) from counts (N, 3, C); NaN where it is neither shown nor predicted."""
    hit, labelled, guessed = counts.transpose(1, 0, 2)
    union = labelled + guessed - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def resampled_miou(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """mIoU in [0, 1] of each resample of the test images, (resamples,), from ``counts`` as `resampled_iou` takes them.

    A class that a resample neither shows nor predicts is left out of its mean, as in `segkd.metrics.scores`.
    """
    return _mean(resampled_iou(counts, resamples, seed))


def _mean(iou: np.ndarray) -> np.ndarray:
    """Over the classes that are there; NaN without any."""
    present = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.where(present, iou, 0).sum(1) / present.sum(1)


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of resampled differences."""
    low, high = np.nanpercentile(differences, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return float(low), float(high)


def image_miou(counts: np.ndarray) -> np.ndarray:
    """mIoU in [0, 1] of each image alone, (N,), from ``counts`` (N, 3, C) as `resampled_miou` takes them; NaN: nothing labelled there."""
    return np.where(counts[:, 1].sum(1) > 0, _mean(_iou(counts.astype(np.float64))), np.nan)


def image_difference(ours: np.ndarray, other: np.ndarray) -> Estimate:
    """Points of mIoU between two networks on the same N images, with a bootstrap interval over these; ``counts`` of both.

    The interval is about the choice of images alone: another training may differ by more. NaN for fewer than `FEW` images.
    """
    one, two = (float(image_miou(counts.sum(0, keepdims=True))[0]) for counts in (ours, other))
    enough, nan = len(ours) >= FEW, math.nan
    low, high = bootstrap_interval(100 * (resampled_miou(ours) - resampled_miou(other))) if enough else (nan, nan)
    return Estimate(len(ours), 100 * (one - two), low, high, nan, nan)
