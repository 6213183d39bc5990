"""IFVD against plain loops: prototypes per image and class, ignored pixels, the gradient through the prototypes."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn

from segkd.losses.ifvd import intra_class_variation
from tests.losses.harness import arrays, built, check, dot, examples, maps, numeric_gradient, unit

CLASSES = 3


def similarities(feature, labels, prototypes_of=None):
    """Cosine of each pixel of one image (A, h, w) with the mean of its class, 1 where there is no class."""
    source = feature if prototypes_of is None else prototypes_of
    out = []
    for y, x in np.ndindex(labels.shape):
        if not 0 <= labels[y, x] < CLASSES:
            out.append(1.0)
            continue
        members = [source[:, i, j] for i, j in np.ndindex(labels.shape) if labels[i, j] == labels[y, x]]
        out.append(dot(*(unit(v, 1e-8) for v in (feature[:, y, x], sum(members) / (len(members) + 1e-6)))))
    return out


def ifv_by_definition(student, teacher, labels, prototypes_of=None):
    """``prototypes_of``: a student whose prototypes are used as constants."""
    total = 0.0
    for b in range(len(labels)):
        fixed = None if prototypes_of is None else prototypes_of[b]
        pairs = zip(similarities(student[b], labels[b], fixed), similarities(teacher[b], labels[b]))
        total += sum((s - t) ** 2 for s, t in pairs)
    return total / labels.size


def batch(batch=2, widths=(4, 6), grid=(3, 4)):
    labels = np.random.default_rng(0).integers(0, CLASSES, (batch, *grid))
    labels[:, 0, :2] = 255
    return *maps(batch, widths, grid), labels


def loss(student, teacher, labels):
    return intra_class_variation(*map(torch.as_tensor, (student, teacher, labels)), CLASSES)


def check_batch(student, teacher, labels, **options):
    check(lambda s, t: loss(s, t, labels), lambda s, t: ifv_by_definition(s, t, labels), student, teacher, **options)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@examples(SHAPES.flatmap(lambda shape: drawn(np.int64, shape, elements=st.sampled_from([0, 1, 2, 7, -1, 255]))), SHAPES)
def test_value_is_its_definition_for_any_labels_and_widths(labels, widths):
    check_batch(*batch(len(labels), widths[1:], labels.shape[1:])[:2], labels, abs=1e-20)


def test_gradient_flows_through_the_prototypes_of_the_student():
    student, teacher, labels = batch()
    check_batch(student, teacher, labels, leaves=[0], atol=1e-9)
    full, constant = (
        numeric_gradient(lambda s: ifv_by_definition(s, teacher, labels, prototypes_of=fixed), student) for fixed in (None, student)
    )
    assert abs(full - constant).max() > 1e-3  # so the line above tells the two apart


def test_ignored_pixels_give_nothing_but_count_in_the_mean():
    student, teacher, labels = batch()
    value = loss(student, teacher, labels).item()
    for gain in (-5, 0):  # 0: a pixel without direction
        moved = student.copy()
        moved[:, :, 0, :2] *= gain
        assert loss(moved, teacher, labels).item() == pytest.approx(value, rel=1e-12)
    f = torch.tensor(student, requires_grad=True)
    nothing = loss(f, teacher, np.full_like(labels, 255))
    nothing.backward()
    assert nothing.item() < 1e-28 and f.grad.abs().max() < 1e-14


def test_images_have_prototypes_of_their_own_and_gain_does_not_matter():
    student, teacher, labels = batch()
    gain = np.array([2.0, 0.1])[:, None, None, None]
    assert loss(gain * student, 7 * teacher, labels).item() == pytest.approx(loss(student, teacher, labels).item())


def test_finite_where_a_feature_is_zero():
    student, teacher, labels = batch()
    student[0, :, 1:], labels[0, 1:] = 0, 1
    check_batch(student, teacher, labels)
    f = torch.tensor(student, requires_grad=True)
    loss(f, teacher, labels).backward()
    assert torch.isfinite(f.grad).all()


@pytest.mark.parametrize("variant, weight", [("paper", 20), ("official", 200)])
def test_weight_and_labels_that_reach_the_grid_by_nearest(variant, weight, info, context):
    step = context(labels=torch.randint(0, CLASSES, (2, 8, 11)))
    grid = step.labels[:, [0, 2, 5]][:, :, [0, 2, 5, 8]].numpy()  # floor(i * 8 / 3) and floor(i * 11 / 4)
    expected = weight * ifv_by_definition(*arrays(step.student.feature, step.teacher.feature), grid)
    assert built(info, "ifvd", variant)[0].loss(step)["ifvd"].item() == pytest.approx(expected, rel=1e-8)
