"""DIST against plain loops: correlation along classes and along the pixels of the whole batch, values and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.dist import correlation_distance


def softmax(values):
    values = [math.exp(v - max(values)) for v in values]
    return [v / sum(values) for v in values]


def correlation(x, y):
    x, y = ([v - sum(values) / len(values) for v in values] for values in (x, y))
    norms = [math.sqrt(sum(v * v for v in values)) for values in (x, y)]
    return sum(a * b for a, b in zip(x, y)) / (norms[0] * norms[1] + 1e-8)


def dist_by_definition(student, teacher, beta=1.0, gamma=1.0, soft=True):
    tables = []
    for scores in (student, teacher):
        rows = [list(image[:, y, x]) for image in scores for y, x in np.ndindex(image.shape[1:])]
        tables.append([softmax(row) for row in rows] if soft else rows)
    mean = lambda pairs: np.mean([correlation(s, t) for s, t in pairs])
    inter, intra = 1 - mean(zip(*tables)), 1 - mean(zip(*(zip(*table) for table in tables)))
    return beta * inter + gamma * intra


def arrays(seed=0, shape=(2, 4, 2, 3)):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(shape), 2 * rng.standard_normal(shape)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    beta=st.sampled_from([0.0, 1.0, 0.3]),
    gamma=st.sampled_from([0.0, 1.0, 2.0]),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_distance_is_its_definition(shape, beta, gamma, soft, seed):
    student, teacher = arrays(seed, shape)
    value = correlation_distance(torch.tensor(student), torch.tensor(teacher), beta, gamma, soft)
    assert value.shape == () and value.dtype == torch.float64
    assert value.item() == pytest.approx(dist_by_definition(student, teacher, beta, gamma, soft), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("beta, gamma", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.4)])
def test_gradient(beta, gamma, soft):
    student, teacher = (torch.tensor(a) for a in arrays(shape=(2, 3, 1, 2)))
    function = lambda s: correlation_distance(s, teacher, beta, gamma, soft)
    assert torch.autograd.gradcheck(function, student.requires_grad_())


@pytest.mark.parametrize("soft", [True, False])
def test_least_where_student_is_teacher(soft):
    student, teacher = (torch.tensor(a) for a in arrays())
    own = teacher.clone().requires_grad_()
    least = correlation_distance(own, teacher, softmax=soft)
    least.backward()
    assert 0 < least.item() < 1e-5, "only the 1e-8 of the denominator is left"
    assert own.grad.abs().max() < 1e-5
    assert correlation_distance(teacher + 0.1 * student, teacher, softmax=soft) > least


def test_opposite_scores_are_farthest():
    _, teacher = (torch.tensor(a) for a in arrays())
    assert correlation_distance(-teacher, teacher, softmax=False).item() == pytest.approx(4, abs=1e-6)


def test_intra_runs_over_all_pixels_of_the_batch():
    student, teacher = (torch.tensor(a) for a in arrays())
    merged = [torch.cat(tuple(x), dim=1)[None] for x in (student, teacher)]  # two images as one, twice as high
    whole = correlation_distance(student, teacher, beta=0.0)
    assert whole.item() == pytest.approx(correlation_distance(*merged, beta=0.0).item(), rel=1e-12)
    alone = [correlation_distance(student[b : b + 1], teacher[b : b + 1], beta=0.0).item() for b in range(2)]
    assert abs(np.mean(alone) - whole.item()) > 1e-3


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.5, 5), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_plain_scores_may_be_scaled_and_shifted(scale, shift, seed):
    student, teacher = (torch.tensor(a) for a in arrays(seed))
    distance = lambda s, **kw: correlation_distance(s, teacher, softmax=False, **kw).item()
    assert distance(scale * student + shift) == pytest.approx(distance(student), abs=1e-6)
    rng = torch.Generator().manual_seed(seed)
    per_pixel, per_class = torch.rand(2, 1, 2, 3, generator=rng), torch.rand(4, 1, 1, generator=rng)
    assert distance((scale + per_pixel) * student - per_pixel, gamma=0.0) == pytest.approx(
        distance(student, gamma=0.0), abs=1e-6
    )
    assert distance((scale + per_class) * student - per_class, beta=0.0) == pytest.approx(
        distance(student, beta=0.0), abs=1e-6
    )


@pytest.mark.parametrize("soft", [True, False])
def test_constant_scores_have_no_correlation_and_a_finite_gradient(soft):
    _, teacher = (torch.tensor(a) for a in arrays())
    student = torch.ones_like(teacher, requires_grad=True)
    value = correlation_distance(student, teacher, beta=1.0, gamma=2.0, softmax=soft)
    value.backward()
    assert value.item() == pytest.approx(3, abs=1e-6) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("aux", [True, False])
def test_the_loss_adds_the_auxiliary_head(aux, info, context):
    step, method = context(student_aux=aux), create_method("dist")
    method.build(info.student, info.teacher)
    pairs = [(1.0, step.student.logits, step.teacher.logits)]
    pairs += [(0.4, step.student.aux_logits, step.teacher.aux_logits)] if aux else []
    expected = sum(w * dist_by_definition(s.detach().numpy(), t.detach().numpy()) for w, s, t in pairs)
    assert sum(method.loss(step).values()).item() == pytest.approx(expected, rel=1e-8)
