"""CIRKD's pixel relations against plain loops, within the batch and against the memory."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.cirkd import cross_image_kl, memory_kl
from segkd.prediction import IGNORE

SMALL = {"pixel_size": 20, "region_size": 10, "pixel_keys": 12, "region_keys": 8}


def softmax(values):
    values = [math.exp(v - max(values)) for v in values]
    return [v / sum(values) for v in values]


def divergence(teacher, student):
    return sum(t * math.log(t / s) for t, s in zip(softmax(teacher), softmax(student)))


def unit(vector):
    length = math.sqrt(sum(v * v for v in vector)) or 1.0  # a dead vector stays zero
    return [v / length for v in vector]


def pixels(feature):
    """Unit vectors of one feature map (A, h, w) in raster order."""
    return [unit(feature[:, y, x]) for y, x in np.ndindex(feature.shape[1:])]


def scores(vector, others, temperature):
    return [sum(a * b for a, b in zip(vector, other)) / temperature for other in others]


def cross_image_by_definition(student, teacher, temperature=0.1):
    student, teacher = [pixels(f) for f in student], [pixels(f) for f in teacher]
    batch, total = len(student), 0.0
    for a in range(batch):
        for b in range(batch):
            for s, t in zip(student[a], teacher[a]):
                part = divergence(scores(t, teacher[b], temperature), scores(s, student[b], temperature))
                total += part / len(student[a])
    return total / batch**2


def memory_by_definition(student, teacher, keys, temperature=0.1, contrast=1.0):
    shared = temperature * contrast
    rows = [divergence(scores(t, keys, shared), scores(s, keys, shared)) for s, t in zip(student, teacher)]
    return contrast**2 * sum(rows) / len(rows)


def features(seed=0, batch=2, channels=(3, 5), grid=(2, 3)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, width, *grid)) for width in channels]


def rows(seed=0, anchors=4, keys=6, channels=3):
    rng = np.random.default_rng(seed)
    return [np.array([unit(v) for v in rng.standard_normal((n, channels))]) for n in (anchors, anchors, keys)]


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(2, 4), st.integers(2, 5)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    temperature=st.sampled_from([0.1, 0.5]),
    seed=st.integers(0, 99),
)
def test_cross_image_kl_is_its_definition(batch, channels, grid, temperature, seed):
    student, teacher = features(seed, batch, channels, grid)
    value = cross_image_kl(torch.tensor(student), torch.tensor(teacher), temperature)
    assert value.shape == () and value.dtype == torch.float64
    expected = cross_image_by_definition(student, teacher, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_temperature_of_the_papers_is_the_default():
    student, teacher = features()
    value = cross_image_kl(torch.tensor(student), torch.tensor(teacher)).item()
    assert value == pytest.approx(cross_image_by_definition(student, teacher), rel=1e-8)
    anchors = rows()
    value = memory_kl(*(torch.tensor(a) for a in anchors)).item()
    assert value == pytest.approx(memory_by_definition(*anchors), rel=1e-8)


@pytest.mark.parametrize("batch", [1, 2])
def test_cross_image_gradient(batch):
    student, teacher = (torch.tensor(f) for f in features(batch=batch, grid=(2, 2)))
    assert torch.autograd.gradcheck(lambda s: cross_image_kl(s, teacher, 0.3), student.requires_grad_())


def test_cross_image_kl_sees_angles_alone():
    student, teacher = (torch.tensor(f) for f in features())
    wide = torch.cat([student, torch.zeros(2, 4, 2, 3, dtype=torch.float64)], dim=1)  # more channels, same angles
    assert cross_image_kl(student, student).item() == pytest.approx(0, abs=1e-12)
    assert cross_image_kl(student, wide.flip(1)).item() == pytest.approx(0, abs=1e-12)
    lengths = torch.rand(2, 1, 2, 3, dtype=torch.float64) + 0.5
    value = cross_image_kl(student, teacher).item()
    assert value > 1e-3 and cross_image_kl(lengths * student, teacher).item() == pytest.approx(value, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(
    anchors=st.integers(1, 5),
    keys=st.integers(1, 7),
    temperature=st.sampled_from([0.1, 0.4]),
    contrast=st.sampled_from([1.0, 0.5, 3.0]),
    seed=st.integers(0, 99),
)
def test_memory_kl_is_its_definition(anchors, keys, temperature, contrast, seed):
    arrays = rows(seed, anchors, keys)
    value = memory_kl(*(torch.tensor(a) for a in arrays), temperature, contrast)
    expected = memory_by_definition(*arrays, temperature, contrast)
    assert value.shape == () and value.item() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_memory_gradient_and_zero():
    student, teacher, keys = (torch.tensor(a) for a in rows())
    assert torch.autograd.gradcheck(lambda s: memory_kl(s, teacher, keys, 0.3, 2.0), student.requires_grad_())
    own = teacher.clone().requires_grad_()
    value = memory_kl(own, teacher, keys)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12) and own.grad.abs().max() < 1e-9


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
    values = memory_kl(student, teacher, keys), plain_kl(student, keys[None], teacher, keys[None], 10)
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in values), rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(*values, rtol=1e-9, atol=0)
    student, teacher = directions(2, 3, 35, 35).requires_grad_(), directions(2, 4, 35, 35)  # 2450 x 2450 similarities
    one, two = ((f / f.norm(dim=1, keepdim=True)).flatten(2).mT for f in (student, teacher))
    values = cross_image_kl(student, teacher), plain_kl(one.flatten(0, 1), one, two.flatten(0, 1), two, 10)
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in values), rtol=1e-8, atol=1e-14)
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
    step, method = context(), create_method("cirkd", **SMALL)
    modules = method.build(info.student, info.teacher)["cirkd"].double().eval()
    bank, generator = copy.deepcopy(modules.bank), torch.Generator().manual_seed(0)
    bank.update(step.teacher.feature, step.labels, generator)  # first the batch enters the memory, then keys are drawn
    keys = [k.numpy() for k in bank.sample(generator, 12, 8)]
    student, teacher = (p.feature.detach().numpy() for p in (step.student, step.teacher))
    valid = (step.labels[:, ::3, ::3] != IGNORE).flatten().tolist()
    assert not all(valid)
    anchors = [v for v, keep in zip(projected(student, modules.projection), valid) if keep]
    targets = [v for v, keep in zip([v for image in teacher for v in pixels(image)], valid) if keep]
    expected = [cross_image_by_definition(student, teacher)]
    expected += [0.1 * memory_by_definition(anchors, targets, key) for key in keys]
    np.testing.assert_allclose([v.item() for v in method.loss(step).values()], expected, rtol=1e-7)
    assert all(torch.equal(v, w) for v, w in zip(bank.state_dict().values(), modules.bank.state_dict().values()))


def test_a_batch_without_labels_leaves_the_batch_term(info, context):
    step, method = context(labels=torch.full((2, 9, 12), IGNORE)), create_method("cirkd", **SMALL)
    modules = method.build(info.student, info.teacher)["cirkd"].double()
    before = copy.deepcopy(modules.bank.state_dict())
    batch, *memory = method.loss(step).values()
    assert batch > 0 and [m.item() for m in memory] == [0, 0]
    assert all(torch.equal(v, before[k]) for k, v in modules.bank.state_dict().items())


def test_the_released_code_has_the_published_queue(info):
    for variant, legacy in (("paper", False), ("official", True)):
        modules = create_method("cirkd", variant, **SMALL).build(info.student, info.teacher)
        assert modules["cirkd"].bank.legacy_queue is legacy
