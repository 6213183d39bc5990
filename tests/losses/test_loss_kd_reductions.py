"""The three sums over pixels that released codes call KD, against plain loops, and how they are related."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses.kd import pixelwise_kl
from segkd.registry import UserError

REDUCTIONS = ["pixel_mean", "element_mean", "batch_sum"]


def log_softmax(scores):
    top = max(scores)
    total = math.log(sum(math.exp(s - top) for s in scores))
    return [s - top - total for s in scores]


def kd_by_definition(student, teacher, temperature, reduction):
    """Loops over images, pixels and classes; ``batch_sum`` has no entropy of the teacher and no 1/B."""
    batch, classes, height, width = student.shape
    total = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                log_t = log_softmax(teacher[b, :, y, x] / temperature)
                log_s = log_softmax(student[b, :, y, x] / temperature)
                for t, s in zip(log_t, log_s):
                    total += math.exp(t) * (-s if reduction == "batch_sum" else t - s)
    share = {"pixel_mean": batch, "element_mean": batch * classes, "batch_sum": 1}[reduction]
    return temperature**2 * total / (share * height * width)


def arrays(shape=(3, 4, 2, 3), seed=0):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(shape), 2 * rng.standard_normal(shape)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(REDUCTIONS), st.sampled_from([0.5, 1.0, 4.0]))
def test_every_reduction_is_its_definition(shape, reduction, temperature):
    student, teacher = arrays(shape)
    value = pixelwise_kl(torch.tensor(student), torch.tensor(teacher), temperature, reduction)
    expected = kd_by_definition(student, teacher, temperature, reduction)
    assert value.ndim == 0 and value.item() == pytest.approx(expected, rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_is_that_of_the_definition(reduction, numeric_gradient):
    student, teacher = arrays((2, 3, 2, 2))
    z = torch.tensor(student, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: pixelwise_kl(s, torch.tensor(teacher), 2.0, reduction), z)
    pixelwise_kl(z, torch.tensor(teacher), 2.0, reduction).backward()
    expected = numeric_gradient(lambda s: kd_by_definition(s, teacher, 2.0, reduction), student)
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-8)


def test_reductions_differ_by_the_number_of_classes_and_of_images():
    student, teacher = (torch.tensor(a) for a in arrays())  # three images, four classes
    gradients = {}
    for reduction in REDUCTIONS:
        z = student.clone().requires_grad_()
        pixelwise_kl(z, teacher, 2.0, reduction).backward()
        gradients[reduction] = z.grad
    torch.testing.assert_close(gradients["element_mean"], gradients["pixel_mean"] / 4)
    torch.testing.assert_close(gradients["batch_sum"], gradients["pixel_mean"] * 3)
    assert pixelwise_kl(student, teacher) == pixelwise_kl(student, teacher, 1.0, "pixel_mean")


def test_batch_sum_is_least_at_the_teacher_and_there_it_is_its_entropy():
    student, teacher = (torch.tensor(a) for a in arrays())
    z = teacher.clone().requires_grad_()
    value = pixelwise_kl(z, teacher, 1.0, "batch_sum")
    value.backward()
    p = np.exp(teacher.numpy()) / np.exp(teacher.numpy()).sum(1, keepdims=True)
    assert value.item() == pytest.approx(-(p * np.log(p)).sum() / 6, rel=1e-8)
    assert z.grad.abs().max() < 1e-14 and pixelwise_kl(student, teacher, 1.0, "batch_sum") > value
    for reduction in ("pixel_mean", "element_mean"):
        assert pixelwise_kl(teacher, teacher, 1.0, reduction) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_finite_for_huge_logits_and_computed_in_single_precision(reduction):
    student, teacher = (400 * torch.tensor(a) for a in arrays())
    z = student.float().requires_grad_()
    value = pixelwise_kl(z, teacher.float(), 1.0, reduction)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0
    assert pixelwise_kl(student.half(), teacher.half(), 1.0, reduction).dtype == torch.float32
    assert value.item() == pytest.approx(kd_by_definition(student.numpy(), teacher.numpy(), 1.0, reduction), rel=1e-4)


def test_unknown_reduction_gives_the_nearest_name():
    student, teacher = (torch.tensor(a) for a in arrays())
    with pytest.raises(UserError, match="'pixel_mean'"):
        pixelwise_kl(student, teacher, reduction="pixel_men")
