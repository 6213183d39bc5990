"""KD and CWD against plain loops over their definitions, values and gradients."""

import math

import numpy as np
import pytest
import torch

from segkd.losses import create_method
from segkd.losses.cwd import channelwise_kl
from segkd.losses.divergence import softmax_kl
from segkd.losses.kd import pixelwise_kl
from segkd.registry import UserError


def softmax(values):
    values = [v - max(values) for v in values]
    return [math.exp(v) / sum(math.exp(u) for u in values) for v in values]


def divergence(teacher, student):
    return sum(t * math.log(t / s) for t, s in zip(softmax(teacher), softmax(student)))


def kd_by_definition(student, teacher, temperature):
    batch, _, height, width = student.shape
    total = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                total += divergence(list(teacher[b, :, y, x] / temperature), list(student[b, :, y, x] / temperature))
    return temperature**2 * total / (batch * height * width)


def cwd_by_definition(student, teacher, temperature, weights=None):
    batch, channels = student.shape[:2]
    total = 0.0
    for b in range(batch):
        for c in range(channels):
            part = divergence(list(teacher[b, c].ravel() / temperature), list(student[b, c].ravel() / temperature))
            total += part * (1.0 if weights is None else weights[b, c])
    return temperature**2 * total / (batch * channels)


def arrays(seed=0, shape=(2, 3, 2, 4)):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(shape), 2 * rng.standard_normal(shape), rng.uniform(0.5, 2, shape[:2])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_pixelwise_kl_is_its_definition(temperature, numeric_gradient):
    student, teacher, _ = arrays()
    z = torch.tensor(student, requires_grad=True)
    value = pixelwise_kl(z, torch.tensor(teacher), temperature)
    assert value.item() == pytest.approx(kd_by_definition(student, teacher, temperature), abs=1e-10)
    value.backward()
    expected = numeric_gradient(lambda s: kd_by_definition(s, teacher, temperature), student)
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channelwise_kl_is_its_definition(temperature, weighted, numeric_gradient):
    student, teacher, weights = arrays(1)
    weights = weights if weighted else None
    given = None if weights is None else torch.tensor(weights)
    z = torch.tensor(student, requires_grad=True)
    value = channelwise_kl(z, torch.tensor(teacher), temperature, given)
    assert value.item() == pytest.approx(cwd_by_definition(student, teacher, temperature, weights), abs=1e-10)
    value.backward()
    expected = numeric_gradient(lambda s: cwd_by_definition(s, teacher, temperature, weights), student)
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("loss", [pixelwise_kl, channelwise_kl])
def test_zero_and_stationary_where_student_equals_teacher(loss):
    z = torch.tensor(arrays()[0], requires_grad=True)
    value = loss(z, z.detach())
    value.backward()
    assert value.item() == 0 and z.grad.abs().max() < 1e-15


@pytest.mark.parametrize("loss", [pixelwise_kl, channelwise_kl])
def test_finite_where_the_log_of_a_softmax_is_not(loss):
    gap = torch.zeros(1, 2, 1, 3)
    gap[0, 0, 0, 0] = 440 * 4
    z = torch.zeros_like(gap).requires_grad_()
    for student, teacher in [(z + gap, z.detach()), (z, gap), (z - gap, gap)]:
        value = loss(student, teacher, 4.0)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("loss", [pixelwise_kl, channelwise_kl])
def test_half_precision_is_computed_in_single_also_under_autocast(loss):
    student, teacher, _ = (torch.tensor(a) for a in arrays())
    expected = loss(student.bfloat16().double(), teacher.bfloat16().double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student.bfloat16(), teacher.bfloat16())
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(student, teacher).dtype == torch.float64


def test_pixelwise_counts_every_pixel_and_shifts_do_not_matter():
    student, teacher, _ = (torch.tensor(a) for a in arrays())
    assert torch.isclose(pixelwise_kl(student + 7, teacher - 3), pixelwise_kl(student, teacher))
    assert torch.isclose(channelwise_kl(student + 7, teacher - 3), channelwise_kl(student, teacher))


def test_cwd_feature_term_has_an_adapter_only_where_widths_differ(info, context):
    method = create_method("cwd", feature_weight=50.0)
    modules = method.build(info.student, info.teacher)
    assert modules["cwd"].adapter.weight.shape == (7, 5, 1, 1)
    step = context(torch.float32)
    losses = method.loss(step)
    assert set(losses) == {"cwd", "cwd/feature"}
    aligned = modules["cwd"].adapter(step.student.feature).detach().double().numpy()
    expected = 50 * cwd_by_definition(aligned, step.teacher.feature.detach().double().numpy(), 4.0)
    assert losses["cwd/feature"].item() == pytest.approx(expected, rel=1e-4)
    assert not list(create_method("cwd", feature_weight=50.0).build(info.teacher, info.teacher).parameters())
    assert not list(create_method("cwd").build(info.student, info.teacher).parameters())


def test_terms_are_weighted_and_need_a_positive_temperature(info, context):
    step = context()
    z = step.student.logits.detach().numpy(), step.teacher.logits.detach().numpy()
    for spec, expected in [("kd", kd_by_definition(*z, 1.0)), ("cwd", 3 * cwd_by_definition(*z, 4.0))]:
        method = create_method(spec)
        method.build(info.student, info.teacher)
        assert method.loss(step)[spec].item() == pytest.approx(expected, abs=1e-8)
        with pytest.raises(UserError, match="temperature"):
            create_method(spec, temperature=0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_shared_divergence_pulls_on_both_sides(weighted):
    g = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(2, 3, 5, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.rand(2, 3, 1, generator=g, dtype=torch.float64) if weighted else None
    loss = lambda s, t: softmax_kl(s, t, 2, 1.7, weights)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (student, teacher))
