"""Statistics: against scipy, against loops that spell the definitions out, and by how often intervals hit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segkd.metrics import confusion_matrix, scores
from segkd.study.numbers.statistics import CHUNK, Estimate, bootstrap_interval, holm, joint_p, resample_weights, resampled_miou, smallest_effect, t_estimate

numbers = st.lists(st.floats(-50, 50).map(lambda v: round(v, 3)), min_size=2, max_size=8).filter(lambda v: len(set(v)) > 1)


@given(numbers, st.floats(-5, 5))
def test_t_estimate_is_scipys(values, limit):
    found = t_estimate(values, limit)
    greater = stats.ttest_1samp(values, limit, alternative="greater")
    less = stats.ttest_1samp(values, limit, alternative="less")
    assert found.p_above == pytest.approx(greater.pvalue, abs=1e-10) and found.p_below == pytest.approx(less.pvalue, abs=1e-10)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-9, abs=1e-9)


def test_t_estimate_without_spread_or_seeds():
    same = t_estimate([1.0, 1.0])  # two shares of few classes: no evidence, however far from zero
    assert (same.n, same.mean, same.p_above, same.p_below) == (2, 1.0, 1.0, 1.0) and math.isnan(same.low) and math.isnan(same.high)
    one = t_estimate([2.0])
    assert (one.n, one.mean) == (1, 2.0) and math.isnan(one.low) and math.isnan(one.p_above)
    assert t_estimate([]).n == 0 and math.isnan(t_estimate([]).mean)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_smallest_effect_is_seen_four_times_in_five(n):
    """By drawing: the 95 % interval of n values about the smallest effect leaves 0 out, above it, in 80 % of all cases."""
    effect = smallest_effect(0.7, n)
    drawn = np.random.default_rng(n).normal(effect, 0.7, (200_000, n))
    half = stats.t.ppf(0.975, n - 1) * drawn.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(drawn.mean(1) - half > 0) == pytest.approx(0.8, abs=0.005)
    rough = (stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * 0.7 / math.sqrt(n)  # is too small for few seeds
    assert rough < effect < 1.17 * rough
    assert all(math.isnan(smallest_effect(sd, n)) for sd, n in ((1.0, 1), (0.0, 5), (math.nan, 5)))


@pytest.mark.parametrize("above, p, supports", [
    ([0.01], 0.02, True), ([0.99], 0.02, False), ([0.01, 0.2], 0.4, True), ([0.01, 0.999, 0.5], 2 * 3 * 0.001, False), ([0.5, 0.5], 1, True),
    ([0.01, math.nan], math.nan, True), ([], math.nan, True),
])  # fmt: skip
def test_joint_p_needs_every_part_to_support_and_one_to_contradict(above, p, supports):
    assert joint_p([Estimate(3, 0.0, 0.0, 0.0, one, 1 - one) for one in above]) == (pytest.approx(p, nan_ok=True), supports)


def test_joint_p_keeps_its_level_where_nothing_differs():
    """With all true differences zero, at most 5 % of claims (here: clearly less) may come out either way."""
    draws, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        wrong += joint_p([t_estimate(draws.normal(size=5)) for _ in range(3)])[0] < 0.05
    assert wrong / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def holm_by_definition(values):
    order, worst, found = sorted(range(len(values)), key=values.__getitem__), 0.0, [0.0] * len(values)
    for rank, index in enumerate(order):
        worst = max(worst, (len(values) - rank) * values[index])
        found[index] = min(worst, 1.0)
    return found


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_is_its_definition(values):
    assert holm(values) == pytest.approx(holm_by_definition(values))


def test_holm_leaves_out_what_was_not_tested():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.01, math.nan, 0.03])
    assert found[0] == pytest.approx(0.02) and math.isnan(found[1]) and found[2] == pytest.approx(0.03)
    assert holm([]) == []


def label_maps(seed, images=7, classes=4):
    """Labels and predictions (N, H, W); the last class is nowhere."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 1, (images, 6, 5), generator=draws)
    predicted = torch.where(torch.rand(labels.shape, generator=draws) < 0.6, labels, (labels + 1) % (classes - 1))
    labels[0, 0, :3] = 255
    return labels, predicted


def counts_of(labels, predicted, classes=4):
    found = []
    for one, guess in zip(labels, predicted):
        matrix = confusion_matrix(guess, one, classes).numpy()
        found.append([np.diag(matrix), matrix.sum(1), matrix.sum(0)])
    return np.array(found)


def test_resampled_miou_is_that_of_the_resampled_images():
    labels, predicted = label_maps(0)
    found = resampled_miou(counts_of(labels, predicted), resamples=20, seed=3)
    for value, weights in zip(found, next(resample_weights(7, 20, seed=3))):
        index = np.repeat(np.arange(7), weights)
        assert value == pytest.approx(scores(confusion_matrix(predicted[index], labels[index], 4))["miou"], abs=1e-12)


def test_resamples_are_the_same_for_both_sides_and_in_chunks():
    labels, predicted = label_maps(1)
    counts = counts_of(labels, predicted)
    assert np.array_equal(resampled_miou(counts, CHUNK + 5), resampled_miou(counts, CHUNK + 5))
    blocks = list(resample_weights(7, CHUNK + 5))
    assert [len(b) for b in blocks] == [CHUNK, 5] and all((b.sum(1) == 7).all() for b in blocks)


def test_bootstrap_interval_agrees_with_scipys_percentiles():
    """A statistic that is a plain mean: one class, equal unions."""
    hit = np.random.default_rng(2).integers(1, 90, 40)
    counts = np.stack([hit, np.full(40, 90), hit], 1)[:, :, None]  # union 90 in each image
    found = bootstrap_interval(resampled_miou(counts))
    other = stats.bootstrap((hit / 90,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3))
    assert found == pytest.approx(tuple(other.confidence_interval), abs=0.006)
