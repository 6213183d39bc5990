"""Attention transfer against plain loops: the squared mean of the codes and the norm that RDD's Eq. 11 prints."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.at import attention_transfer


def attention(feature):
    """Unit vector over the positions of one image (A, h, w): mean over channels of the squares, normalised."""
    energy = [sum(c * c for c in feature[:, y, x]) / len(feature) for y, x in np.ndindex(feature.shape[1:])]
    norm = max(math.sqrt(sum(e * e for e in energy)), 1e-12)
    return [e / norm for e in energy]


def at_by_definition(student, teacher, squared=True):
    batch, positions = len(student), student[0, 0].size
    total = 0.0
    for s, t in zip(student, teacher):
        gap = sum((a - b) ** 2 for a, b in zip(attention(s), attention(t)))
        total += gap if squared else math.sqrt(gap) / 2
    return total / (batch * positions)


def features(batch=2, widths=(3, 5), grid=(2, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, width, *grid)) for width in widths]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.tuples(*[st.integers(1, 5)] * 2), st.tuples(*[st.integers(1, 5)] * 2), st.booleans())
def test_value_is_its_definition_for_any_widths(batch, widths, grid, squared):
    student, teacher = features(batch, widths, grid)
    value = attention_transfer(torch.tensor(student), torch.tensor(teacher), squared=squared)
    assert value.ndim == 0 and value.dtype == torch.float64
    assert value.item() == pytest.approx(at_by_definition(student, teacher, squared), rel=1e-8, abs=1e-14)


@pytest.mark.parametrize("squared", [True, False])
def test_gradient_is_that_of_the_definition(squared, numeric_gradient):
    student, teacher = features()
    f = torch.tensor(student, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: attention_transfer(s, torch.tensor(teacher), squared=squared), f)
    attention_transfer(f, torch.tensor(teacher), squared=squared).backward()
    expected = numeric_gradient(lambda s: at_by_definition(s, teacher, squared), student)
    np.testing.assert_allclose(f.grad.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("squared", [True, False])
def test_zero_with_zero_gradient_where_the_attention_is_the_teachers(squared):
    teacher = torch.tensor(features()[0])
    f = teacher.clone().requires_grad_()
    value = attention_transfer(f, teacher, squared=squared)
    value.backward()
    assert value.item() == 0 and torch.equal(f.grad, torch.zeros_like(f))
    rescaled = torch.cat([-3 * teacher, 3 * teacher], 1)  # sign, gain and repeated channels leave attention alone
    assert attention_transfer(rescaled, teacher).item() < 1e-30


def test_one_equal_image_leaves_the_gradient_of_the_other_alone():
    student, teacher = (torch.tensor(a) for a in features(widths=(4, 4)))
    both = torch.cat([teacher[:1], student[1:]]).requires_grad_()
    alone = student[1:].clone().requires_grad_()
    attention_transfer(both, teacher, squared=False).backward()
    attention_transfer(alone, teacher[1:], squared=False).backward()
    assert torch.equal(both.grad[:1], torch.zeros_like(alone))
    torch.testing.assert_close(both.grad[1:], alone.grad / 2)


def test_finite_for_dead_and_for_huge_half_precision_features():
    teacher = 1000 * torch.tensor(features()[1])  # squares overflow half precision
    for student in (torch.zeros_like(teacher), 1000 * torch.tensor(features(seed=1)[1])):
        f = student.half().requires_grad_()
        value = attention_transfer(f, teacher.half())
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(f.grad).all()
        assert value.item() == pytest.approx(at_by_definition(student.numpy(), teacher.numpy()), rel=5e-3)


def test_weights_of_the_head_feature_and_of_the_last_three_stages(info, context):
    step = context()
    given = [x.feature.detach().numpy() for x in (step.student, step.teacher)]
    for options, weight in [({}, 10_000), ({"squared": False}, 10_000)]:
        method = create_method("at", **options)
        method.build(info.student, info.teacher)
        expected = weight * at_by_definition(*given, **options)
        assert method.loss(step)["at"].item() == pytest.approx(expected, rel=1e-8)
    stages = [features(2, (i + 1, i + 2), (6 - i, 5)) for i in range(4)]
    for i, name in enumerate(("student", "teacher")):
        shown = tuple(torch.tensor(pair[i]) for pair in stages)
        step = dataclasses.replace(step, **{name: dataclasses.replace(getattr(step, name), stages=shown)})
    method = create_method("at", "official")
    method.build(info.student, info.teacher)
    expected = 1000 * sum(at_by_definition(*pair) for pair in stages[1:])
    assert method.loss(step)["at"].item() == pytest.approx(expected, rel=1e-8)
