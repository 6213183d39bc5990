"""CIRKD's pixel relations against plain loops, within the batch and against the memory."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.cirkd import cross_image_kl, memory_kl
from segkd.prediction import IGNORE
from tests.losses.harness import arrays, built, check, divergence, dot, examples, maps, unit

SMALL = {"pixel_size": 20, "region_size": 10, "pixel_keys": 12, "region_keys": 8}


def pixels(feature):
    """Unit vectors of one feature map (A, h, w) in raster order."""
    return [unit(feature[:, y, x]) for y, x in np.ndindex(feature.shape[1:])]


def scores(vector, others, temperature):
    return [dot(vector, other) / temperature for other in others]


def cross_image_by_definition(student, teacher, temperature=0.1):
    student, teacher = [pixels(f) for f in student], [pixels(f) for f in teacher]
    total = 0.0
    for a, b in np.ndindex(len(student), len(student)):
        for s, t in zip(student[a], teacher[a]):
            total += divergence(scores(t, teacher[b], temperature), scores(s, student[b], temperature))
    return total / (len(student) ** 2 * len(student[0]))


def memory_by_definition(student, teacher, keys, temperature=0.1, contrast=1.0):
    shared = temperature * contrast
    rows = [divergence(scores(t, keys, shared), scores(s, keys, shared)) for s, t in zip(student, teacher)]
    return contrast**2 * sum(rows) / len(rows)


def rows(seed=0, anchors=4, keys=6, channels=3):
    rng = np.random.default_rng(seed)
    return [np.array([unit(v) for v in rng.standard_normal((n, channels))]) for n in (anchors, anchors, keys)]


def check_with(loss, definition, given, *options, **how):
    check(lambda *a: loss(*a, *options), lambda *a: definition(*a, *options), *given, **how)


@examples(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(2, 4), st.integers(2, 5)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    temperature=st.sampled_from([(), (0.1,), (0.5,)]),  # that of the papers is the default
    seed=st.integers(0, 99),
)
def test_cross_image_kl_is_its_definition(batch, channels, grid, temperature, seed):
    check_with(cross_image_kl, cross_image_by_definition, maps(batch, channels, grid, seed), *temperature)


@pytest.mark.parametrize("batch", [1, 2])
def test_cross_image_gradient(batch):
    check_with(cross_image_kl, cross_image_by_definition, maps(batch, grid=(2, 2)), 0.3, leaves=[0])


def test_cross_image_kl_sees_angles_alone():
    student, teacher = map(torch.tensor, maps())
    wide = torch.cat([student, torch.zeros(2, 4, 2, 3, dtype=torch.float64)], dim=1)  # more channels, same angles
    assert cross_image_kl(student, student).item() == pytest.approx(0, abs=1e-12)
    assert cross_image_kl(student, wide.flip(1)).item() == pytest.approx(0, abs=1e-12)
    lengths = torch.rand(2, 1, 2, 3, dtype=torch.float64) + 0.5
    value = cross_image_kl(student, teacher).item()
    assert value > 1e-3 and cross_image_kl(lengths * student, teacher).item() == pytest.approx(value, rel=1e-9)


@examples(
    anchors=st.integers(1, 5),
    keys=st.integers(1, 7),
    temperatures=st.sampled_from([(), (0.1, 0.5), (0.4, 1.0), (0.4, 3.0)]),
    seed=st.integers(0, 99),
)
def test_memory_kl_is_its_definition(anchors, keys, temperatures, seed):
    check_with(memory_kl, memory_by_definition, rows(seed, anchors, keys), *temperatures)


def test_memory_gradient():
    check_with(memory_kl, memory_by_definition, rows(), 0.3, 2.0, leaves=[0])


def test_no_anchor_gives_zero():
    student, teacher, keys = (torch.tensor(a) for a in rows())
    none = student[:0].requires_grad_()
    value = memory_kl(none, teacher[:0], keys)
    assert value.shape == () and value.item() == 0
    (value + student.requires_grad_().sum()).backward()


def plain_kl(student, student_keys, teacher, teacher_keys, scale):
    """All rows at once, differentiated by autograd: rows (R, A), keys (G, K, A), mean over rows and groups."""
    one, two = (torch.einsum("ra,gka->rgk", *x) * scale for x in ((student, student_keys), (teacher, teacher_keys)))
    return (two.softmax(2) * (two.log_softmax(2) - one.log_softmax(2))).sum(2).mean()


def test_many_pixels_and_keys_are_the_same_sum():
    rng = torch.Generator().manual_seed(0)
    directions = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=rng).double(), dim=-1)
    student, teacher, keys = directions(2500, 3).requires_grad_(), directions(2500, 3), directions(1000, 3)
    pairs = [(student, memory_kl(student, teacher, keys), plain_kl(student, keys[None], teacher, keys[None], 10))]
    student, teacher = directions(2, 3, 35, 35).requires_grad_(), directions(2, 4, 35, 35)  # 2450 x 2450 similarities
    one, two = ((f / f.norm(dim=1, keepdim=True)).flatten(2).mT for f in (student, teacher))
    pairs += [(student, cross_image_kl(student, teacher), plain_kl(one.flatten(0, 1), one, two.flatten(0, 1), two, 10))]
    for leaf, *values in pairs:
        torch.testing.assert_close(*(torch.autograd.grad(v, leaf)[0] for v in values), rtol=1e-8, atol=1e-14)
        torch.testing.assert_close(*values, rtol=1e-9, atol=0)


def projected(feature, head):
    """Unit vectors of every pixel of (B, A, h, w) behind convolution, resting normalisation, ReLU and convolution."""
    first, second = (head[i].weight.detach().numpy()[:, :, 0, 0] for i in (0, 3))
    out = []
    for b, y, x in np.ndindex(len(feature), *feature.shape[2:]):
        hidden = [sum(row * feature[b, :, y, x]) / math.sqrt(1 + 1e-5) for row in first]
        out.append(unit(second @ np.maximum(hidden, 0)))
    return out


def test_the_loss_is_its_three_terms(info, context):
    step, (method, modules) = context(), built(info, "cirkd", **SMALL)
    modules = modules["cirkd"].eval()
    bank, generator = copy.deepcopy(modules.bank), torch.Generator().manual_seed(0)
    bank.update(step.teacher.feature, step.labels, generator)  # first the batch enters the memory, then keys are drawn
    keys = [k.numpy() for k in bank.sample(generator, 12, 8)]
    student, teacher = arrays(step.student.feature, step.teacher.feature)
    valid = (step.labels[:, ::3, ::3] != IGNORE).flatten().tolist()
    assert not all(valid)
    anchors = [v for v, keep in zip(projected(student, modules.projection), valid) if keep]
    targets = [v for v, keep in zip([v for image in teacher for v in pixels(image)], valid) if keep]
    expected = [cross_image_by_definition(student, teacher)]
    expected += [0.1 * memory_by_definition(anchors, targets, key) for key in keys]
    np.testing.assert_allclose([v.item() for v in method.loss(step).values()], expected, rtol=1e-7)
    assert all(torch.equal(v, w) for v, w in zip(bank.state_dict().values(), modules.bank.state_dict().values()))


def test_a_batch_without_labels_leaves_the_batch_term(info, context):
    step, (method, modules) = context(labels=torch.full((2, 9, 12), IGNORE)), built(info, "cirkd", **SMALL)
    before = copy.deepcopy(modules["cirkd"].bank.state_dict())
    batch, *memory = method.loss(step).values()
    assert batch > 0 and [m.item() for m in memory] == [0, 0]
    assert all(torch.equal(v, before[k]) for k, v in modules["cirkd"].bank.state_dict().items())


def test_the_released_code_has_the_published_queue(info):
    for variant, legacy in (("paper", False), ("official", True)):
        assert built(info, "cirkd", variant, **SMALL)[1]["cirkd"].bank.legacy_queue is legacy
