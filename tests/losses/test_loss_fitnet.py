"""FitNet's mean squared error against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.fitnet import feature_mse


def mse_by_definition(student, teacher):
    total = 0.0
    for index in np.ndindex(student.shape):
        total += (student[index] - teacher[index]) ** 2
    return total / student.size


def features(shape=(2, 3, 2, 4), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape), rng.standard_normal(shape)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 4))
def test_value_is_its_definition(shape):
    student, teacher = features(shape)
    value = feature_mse(torch.tensor(student), torch.tensor(teacher))
    assert value.ndim == 0 and value.dtype == torch.float64
    assert value.item() == pytest.approx(mse_by_definition(student, teacher), rel=1e-8)


def test_gradient_and_zero_at_the_teacher():
    student, teacher = (torch.tensor(a) for a in features())
    f = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: feature_mse(s, teacher), f)
    feature_mse(f, teacher).backward()
    torch.testing.assert_close(f.grad, 2 * (student - teacher) / 48)
    assert feature_mse(teacher, teacher) == 0


def test_half_precision_does_not_overflow():
    student, teacher = (300 * torch.tensor(a) for a in features())
    value = feature_mse(student.half(), teacher.half())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(mse_by_definition(student.numpy(), teacher.numpy()), rel=5e-3)


def test_the_student_passes_an_adapter_without_bias_and_the_weight_is_ten(info, context):
    step, method = context(), create_method("fitnet")
    adapter = method.build(info.student, info.teacher).double()["fitnet"]
    assert adapter.weight.shape == (7, 5, 1, 1) and adapter.bias is None
    student, teacher = (x.feature.detach().numpy() for x in (step.student, step.teacher))
    adapted = np.einsum("ts,bshw->bthw", adapter.weight.detach().numpy()[:, :, 0, 0], student)
    value = method.loss(step)["fitnet"]
    assert value.item() == pytest.approx(10 * mse_by_definition(adapted, teacher), rel=1e-8)
    value.backward()
    assert adapter.weight.grad.abs().sum() > 0 and step.student.feature.grad.abs().sum() > 0
