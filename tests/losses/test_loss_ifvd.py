"""IFVD against plain loops: prototypes per image and class, ignored pixels, the gradient through the prototypes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkd.losses import create_method
from segkd.losses.ifvd import intra_class_variation

CLASSES = 3


def cosine(u, v):
    lengths = [max(math.sqrt(sum(c * c for c in x)), 1e-8) for x in (u, v)]
    return sum(a * b for a, b in zip(u, v)) / (lengths[0] * lengths[1])


def similarities(feature, labels, prototypes_of=None):
    """Cosine of each pixel of one image (A, h, w) with the mean of its class, 1 where there is no class."""
    source = feature if prototypes_of is None else prototypes_of
    out = []
    for y, x in np.ndindex(labels.shape):
        if not 0 <= labels[y, x] < CLASSES:
            out.append(1.0)
            continue
        members = [source[:, i, j] for i, j in np.ndindex(labels.shape) if labels[i, j] == labels[y, x]]
        out.append(cosine(feature[:, y, x], sum(members) / (len(members) + 1e-6)))
    return out


def ifv_by_definition(student, teacher, labels, prototypes_of=None):
    """``prototypes_of``: a student whose prototypes are used as constants."""
    total = 0.0
    for b in range(len(labels)):
        fixed = None if prototypes_of is None else prototypes_of[b]
        pairs = zip(similarities(student[b], labels[b], fixed), similarities(teacher[b], labels[b]))
        total += sum((s - t) ** 2 for s, t in pairs)
    return total / labels.size


def batch(batch=2, widths=(4, 6), grid=(3, 4), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (batch, *grid))
    labels[:, 0, :2] = 255
    return *(rng.standard_normal((batch, width, *grid)) for width in widths), labels


def loss(student, teacher, labels, **options):
    return intra_class_variation(*map(torch.as_tensor, (student, teacher, labels)), CLASSES, **options)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=15, deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, 7, -1, 255]))), SHAPES)
def test_value_is_its_definition_for_any_labels_and_widths(labels, widths):
    student, teacher, _ = batch(len(labels), widths[1:], labels.shape[1:])
    value = loss(student, teacher, labels)
    assert value.ndim == 0 and value.dtype == torch.float64
    assert value.item() == pytest.approx(ifv_by_definition(student, teacher, labels), rel=1e-8, abs=1e-20)


def test_gradient_flows_through_the_prototypes_of_the_student(numeric_gradient):
    student, teacher, labels = batch()
    f = torch.tensor(student, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), f)
    loss(f, teacher, labels).backward()
    full = numeric_gradient(lambda s: ifv_by_definition(s, teacher, labels), student)
    np.testing.assert_allclose(f.grad.numpy(), full, atol=1e-9)
    constant = numeric_gradient(lambda s: ifv_by_definition(s, teacher, labels, prototypes_of=student), student)
    assert abs(full - constant).max() > 1e-3  # so the line above tells the two apart


def test_ignored_pixels_give_nothing_but_count_in_the_mean():
    student, teacher, labels = batch()
    value = loss(student, teacher, labels).item()
    moved = student.copy()
    moved[:, :, 0, :2] *= -5
    assert loss(moved, teacher, labels).item() == pytest.approx(value, rel=1e-12)
    moved[:, :, 0, :2] = 0  # a pixel without direction
    assert loss(moved, teacher, labels).item() == pytest.approx(value, rel=1e-12)
    padded = [np.concatenate([a, np.ones_like(a)], -1) for a in (student, teacher)]
    wider = np.concatenate([labels, np.full_like(labels, 255)], -1)
    assert loss(*padded, wider).item() == pytest.approx(value / 2, rel=1e-12)
    assert loss(student, teacher, np.where(labels == 255, 9, labels), ignore_index=9).item() == pytest.approx(value)


def test_only_ignored_pixels_give_zero_without_gradient():
    student, teacher, labels = batch()
    f = torch.tensor(student, requires_grad=True)
    value = loss(f, teacher, np.full_like(labels, 255))
    value.backward()
    assert value.item() < 1e-28 and f.grad.abs().max() < 1e-14


def test_zero_at_the_teacher_and_unchanged_by_gain():
    student, teacher, labels = batch(widths=(4, 4))
    f = torch.tensor(teacher, requires_grad=True)
    value = loss(f, teacher, labels)
    value.backward()
    assert value.item() == 0 and f.grad.abs().max() < 1e-14
    gain = np.array([2.0, 0.1])[:, None, None, None]  # images have prototypes of their own
    assert loss(gain * student, 7 * teacher, labels).item() == pytest.approx(loss(student, teacher, labels).item())


def test_labels_of_any_size_reach_the_grid_by_nearest():
    student, teacher, _ = batch(grid=(2, 3))
    fine = np.random.default_rng(1).integers(0, CLASSES, (2, 5, 7))
    grid = fine[:, [0, 2]][:, :, [0, 2, 4]]  # floor(i * 5 / 2) and floor(i * 7 / 3)
    assert loss(student, teacher, fine).item() == pytest.approx(ifv_by_definition(student, teacher, grid), rel=1e-8)


def test_finite_where_a_feature_is_zero():
    student, teacher, labels = batch()
    student[0, :, 1:] = 0
    labels[0, 1:] = 1
    f = torch.tensor(student, requires_grad=True)
    value = loss(f, teacher, labels)
    value.backward()
    assert value.item() == pytest.approx(ifv_by_definition(student, teacher, labels), rel=1e-8)
    assert torch.isfinite(f.grad).all()


@pytest.mark.parametrize("variant, weight", [("paper", 20), ("official", 200)])
def test_weight(variant, weight, info, context):
    step, method = context(labels=torch.randint(0, CLASSES, (2, 9, 12))), create_method("ifvd", variant)
    method.build(info.student, info.teacher)
    given = [x.feature.detach().numpy() for x in (step.student, step.teacher)]
    expected = weight * ifv_by_definition(*given, step.labels[:, ::3, ::3].numpy())
    assert method.loss(step)["ifvd"].item() == pytest.approx(expected, rel=1e-8)
