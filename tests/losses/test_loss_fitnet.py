"""FitNet's mean squared error against plain loops."""

import numpy as np
import pytest
from hypothesis import strategies as st

from segkd.losses.fitnet import feature_mse
from tests.losses.harness import arrays, built, check, examples, normal


def mse_by_definition(student, teacher):
    return sum((student[i] - teacher[i]) ** 2 for i in np.ndindex(student.shape)) / student.size


@examples(st.tuples(*[st.integers(1, 3)] * 4))
def test_value_and_gradient_are_its_definition(shape):
    check(feature_mse, mse_by_definition, *normal(shape, shape), leaves=[0])


def test_the_student_passes_an_adapter_without_bias_and_the_weight_is_ten(info, context):
    step, (method, modules) = context(), built(info, "fitnet")
    adapter = modules["fitnet"]
    assert adapter.weight.shape == (7, 5, 1, 1) and adapter.bias is None
    weight, student, teacher = arrays(adapter.weight[:, :, 0, 0], step.student.feature, step.teacher.feature)
    value = method.loss(step)["fitnet"]
    expected = 10 * mse_by_definition(np.einsum("ts,bshw->bthw", weight, student), teacher)
    assert value.item() == pytest.approx(expected, rel=1e-8)
    value.backward()
    assert adapter.weight.grad.abs().sum() > 0 and step.student.feature.grad.abs().sum() > 0
