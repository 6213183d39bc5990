"""Attention transfer against plain loops: the squared mean of the codes and the norm that RDD's Eq. 11 prints."""

import dataclasses
import math

import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.at import attention_transfer
from tests.losses.harness import arrays, attention, built, check, examples, maps


def at_by_definition(student, teacher, squared=True):
    total = 0.0
    for s, t in zip(student, teacher):
        gap = sum((a - b) ** 2 for a, b in zip(attention(s), attention(t)))
        total += gap if squared else math.sqrt(gap) / 2
    return total / (len(student) * student[0, 0].size)


def forms(squared):
    return [lambda s, t, f=f: f(s, t, squared=squared) for f in (attention_transfer, at_by_definition)]


@examples(st.integers(1, 3), st.tuples(*[st.integers(1, 5)] * 2), st.tuples(*[st.integers(1, 5)] * 2), st.booleans())
def test_value_is_its_definition_for_any_widths(batch, widths, grid, squared):
    check(*forms(squared), *maps(batch, widths, grid), abs=1e-14)


@pytest.mark.parametrize("squared", [True, False])
def test_gradient_is_that_of_the_definition(squared):
    check(*forms(squared), *maps(), leaves=[0], atol=1e-9)


@pytest.mark.parametrize("squared", [True, False])
def test_zero_with_zero_gradient_where_the_attention_is_the_teachers(squared):
    teacher = torch.tensor(maps()[0])
    f = teacher.clone().requires_grad_()
    value = attention_transfer(f, teacher, squared=squared)
    value.backward()
    assert value.item() == 0 and torch.equal(f.grad, torch.zeros_like(f))
    rescaled = torch.cat([-3 * teacher, 3 * teacher], 1)  # sign, gain and repeated channels leave attention alone
    assert attention_transfer(rescaled, teacher).item() < 1e-30


def test_one_equal_image_leaves_the_gradient_of_the_other_alone():
    student, teacher = (torch.tensor(a) for a in maps(widths=(4, 4)))
    both = torch.cat([teacher[:1], student[1:]]).requires_grad_()
    alone = student[1:].clone().requires_grad_()
    attention_transfer(both, teacher, squared=False).backward()
    attention_transfer(alone, teacher[1:], squared=False).backward()
    assert torch.equal(both.grad[:1], torch.zeros_like(alone))
    torch.testing.assert_close(both.grad[1:], alone.grad / 2)


def test_a_dead_feature_has_a_value_and_no_gradient():
    teacher = torch.tensor(maps()[1])
    f = torch.zeros_like(teacher).requires_grad_()
    value = attention_transfer(f, teacher)
    value.backward()
    assert value.item() == pytest.approx(at_by_definition(*arrays(f, teacher))) and torch.isfinite(f.grad).all()


def test_weights_of_the_head_feature_and_of_the_last_three_stages(info, context):
    step = context()
    for squared in (True, False):
        expected = 10_000 * at_by_definition(*arrays(step.student.feature, step.teacher.feature), squared)
        assert built(info, "at", squared=squared)[0].loss(step)["at"].item() == pytest.approx(expected, rel=1e-8)
    stages = [maps(2, (i + 1, i + 2), (6 - i, 5)) for i in range(4)]
    for i, name in enumerate(("student", "teacher")):
        shown = tuple(torch.tensor(pair[i]) for pair in stages)
        step = dataclasses.replace(step, **{name: dataclasses.replace(getattr(step, name), stages=shown)})
    expected = 1000 * sum(at_by_definition(*pair) for pair in stages[1:])
    assert built(info, "at", "official")[0].loss(step)["at"].item() == pytest.approx(expected, rel=1e-8)
