"""KD, with the three sums over pixels that released codes call so, and CWD against plain loops, values and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.cwd import channelwise_kl
from segkd.losses.divergence import softmax_kl
from segkd.losses.kd import pixelwise_kl
from tests.losses.harness import arrays, built, check, divergence, examples, log_softmax, normal

REDUCTIONS = ["pixel_mean", "element_mean", "batch_sum"]
SHAPE = (3, 4, 2, 3)


def kd_by_definition(student, teacher, temperature=1.0, reduction="pixel_mean"):
    """Loops over images, pixels and classes; ``batch_sum`` has no entropy of the teacher and no 1/B."""
    batch, classes, *grid = student.shape
    total = 0.0
    for b, y, x in np.ndindex(batch, *grid):
        log_t, log_s = (log_softmax(z[b, :, y, x] / temperature) for z in (teacher, student))
        for t, s in zip(log_t, log_s):
            total += math.exp(t) * (-s if reduction == "batch_sum" else t - s)
    parts = {"pixel_mean": batch, "element_mean": batch * classes, "batch_sum": 1}[reduction]
    return temperature**2 * total / (parts * math.prod(grid))


def cwd_by_definition(student, teacher, temperature=4.0, weights=None):
    total = 0.0
    for b, c in np.ndindex(student.shape[:2]):
        part = divergence(*(z[b, c].ravel() / temperature for z in (teacher, student)))
        total += part * (1.0 if weights is None else weights[b, c])
    return temperature**2 * total / math.prod(student.shape[:2])


@examples(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(REDUCTIONS), st.sampled_from([0.5, 1.0, 4.0]))
def test_every_reduction_is_its_definition(shape, reduction, temperature):
    options = temperature, reduction
    check(lambda s, t: pixelwise_kl(s, t, *options), lambda s, t: kd_by_definition(s, t, *options), *normal(shape, shape, scale=2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_is_that_of_the_definition(reduction):
    loss, definition = (lambda s, t, f=f: f(s, t, 2.0, reduction) for f in (pixelwise_kl, kd_by_definition))
    check(loss, definition, *normal(SHAPE, SHAPE, scale=2), leaves=[0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channelwise_kl_is_its_definition(temperature, weighted):
    weights = np.random.default_rng(1).uniform(0.5, 2, SHAPE[:2]) if weighted else None
    loss = lambda s, t: channelwise_kl(s, t, temperature, None if weights is None else torch.tensor(weights))
    check(loss, lambda s, t: cwd_by_definition(s, t, temperature, weights), *normal(SHAPE, SHAPE, seed=1, scale=2), leaves=[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_shared_divergence_pulls_on_both_sides(weighted):
    student, teacher, weights = (torch.tensor(a) for a in normal((2, 3, 5), (2, 3, 5), (2, 3, 1), seed=3))
    loss = lambda s, t: softmax_kl(s, t, 2, 1.7, weights.abs() if weighted else None)
    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher.requires_grad_()))


@pytest.mark.parametrize("loss", [pixelwise_kl, channelwise_kl])
def test_finite_where_the_log_of_a_softmax_is_not(loss):
    gap = torch.zeros(1, 2, 1, 3)
    gap[0, 0, 0, 0] = 440 * 4
    z = torch.zeros_like(gap).requires_grad_()
    for student, teacher in [(z + gap, z.detach()), (z, gap), (z - gap, gap)]:
        value = loss(student, teacher, 4.0)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(z.grad).all()


def test_terms_are_weighted(info, context):
    step = context()
    z = arrays(step.student.logits, step.teacher.logits)
    for spec, expected in [("kd", kd_by_definition(*z)), ("cwd", 3 * cwd_by_definition(*z))]:
        assert built(info, spec)[0].loss(step)[spec].item() == pytest.approx(expected, abs=1e-8)


def test_cwd_feature_term_has_an_adapter_only_where_widths_differ(info, context):
    step, (method, modules) = context(), built(info, "cwd", feature_weight=50.0)
    assert modules["cwd"].adapter.weight.shape == (7, 5, 1, 1)
    losses = method.loss(step)
    assert set(losses) == {"cwd", "cwd/feature"}
    aligned = modules["cwd"].adapter(step.student.feature)
    expected = 50 * cwd_by_definition(*arrays(aligned, step.teacher.feature))
    assert losses["cwd/feature"].item() == pytest.approx(expected, rel=1e-8)
    assert not list(create_method("cwd", feature_weight=50.0).build(info.teacher, info.teacher).parameters())
    assert not list(create_method("cwd").build(info.student, info.teacher).parameters())
