"""DIST against plain loops: correlation along classes and along the pixels of the whole batch, values and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.dist import correlation_distance
from tests.losses.harness import arrays, built, check, dot, examples, normal, softmax

SHAPE = (2, 4, 2, 3)


def correlation(x, y):
    x, y = ([v - sum(values) / len(values) for v in values] for values in (x, y))
    return dot(x, y) / (math.sqrt(dot(x, x)) * math.sqrt(dot(y, y)) + 1e-8)


def dist_by_definition(student, teacher, beta=1.0, gamma=1.0, soft=True):
    tables = []
    for scores in (student, teacher):
        rows = [list(image[:, y, x]) for image in scores for y, x in np.ndindex(image.shape[1:])]
        tables.append([softmax(row) for row in rows] if soft else rows)
    mean = lambda pairs: np.mean([correlation(s, t) for s, t in pairs])
    inter, intra = 1 - mean(zip(*tables)), 1 - mean(zip(*(zip(*table) for table in tables)))
    return beta * inter + gamma * intra


def forms(*options):
    return [lambda s, t, f=f: f(s, t, *options) for f in (correlation_distance, dist_by_definition)]


@examples(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    options=st.tuples(st.sampled_from([0.0, 1.0, 0.3]), st.sampled_from([0.0, 1.0, 2.0]), st.booleans()),
    seed=st.integers(0, 99),
)
def test_distance_is_its_definition(shape, options, seed):
    check(*forms(*options), *normal(shape, shape, seed=seed, scale=2), abs=1e-9)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("beta, gamma", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.4)])
def test_gradient(beta, gamma, soft):
    check(*forms(beta, gamma, soft), *normal(SHAPE, SHAPE), leaves=[0])


def test_opposite_scores_are_farthest():
    (teacher,) = map(torch.tensor, normal(SHAPE))
    assert correlation_distance(-teacher, teacher, softmax=False).item() == pytest.approx(4, abs=1e-6)


@examples(scale=st.floats(0.5, 5), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_plain_scores_may_be_scaled_and_shifted(scale, shift, seed):
    student, teacher, per_pixel, per_class = map(torch.tensor, normal(SHAPE, SHAPE, (2, 1, 2, 3), (4, 1, 1), seed=seed))
    for beta, gamma, part in ((1.0, 1.0, 0), (1.0, 0.0, per_pixel.abs()), (0.0, 1.0, per_class.abs())):
        found = correlation_distance((scale + part) * student + shift - part, teacher, beta, gamma, softmax=False)
        assert found.item() == pytest.approx(correlation_distance(student, teacher, beta, gamma, softmax=False).item(), abs=1e-6)


@pytest.mark.parametrize("soft", [True, False])
def test_constant_scores_have_no_correlation_and_a_finite_gradient(soft):
    (teacher,) = map(torch.tensor, normal(SHAPE))
    student = torch.ones_like(teacher, requires_grad=True)
    value = correlation_distance(student, teacher, beta=1.0, gamma=2.0, softmax=soft)
    value.backward()
    assert value.item() == pytest.approx(3, abs=1e-6) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("aux", [True, False])
def test_the_loss_adds_the_auxiliary_head(aux, info, context):
    step = context(student_aux=aux)
    expected = dist_by_definition(*arrays(step.student.logits, step.teacher.logits))
    if aux:
        expected += 0.4 * dist_by_definition(*arrays(step.student.aux_logits, step.teacher.aux_logits))
    assert sum(built(info, "dist")[0].loss(step).values()).item() == pytest.approx(expected, rel=1e-8)
