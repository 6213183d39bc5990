"""DSD's two terms against plain loops, maps that are missing, and the student whose auxiliary map is its logits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.dsd import category_similarity, pixel_similarity
from tests.losses.harness import attention, built, check, examples, normal, unit

WIDTHS = {"student": (3, 5, 3), "teacher": (3, 7, 3)}  # auxiliary logits, feature, logits
PAIRS = [(0, 1), (0, 2), (1, 2)]


def residual(shallow, deep):
    return unit([d - s for s, d in zip(attention(shallow), attention(deep))])


def psd_by_definition(student, teacher, pairs=PAIRS):
    """Mean over the given pairs of maps, images and positions."""
    total, count = 0.0, 0
    for n, m in pairs:
        for b in range(len(student[n])):
            ours, theirs = (residual(maps[n][b], maps[m][b]) for maps in (student, teacher))
            total += sum((s - t) ** 2 for s, t in zip(ours, theirs))
            count += len(ours)
    return total / count


def distributions(logits, temperature):
    """C distributions over the positions of one image (C, h, w), averaged in 2 x 2 windows that border pixels cut."""
    rows = []
    for channel in logits:
        spots = [(y, x) for y in range(0, channel.shape[0], 2) for x in range(0, channel.shape[1], 2)]
        powers = [math.exp(channel[y : y + 2, x : x + 2].mean() / temperature) for y, x in spots]
        rows.append([p / sum(powers) for p in powers])
    return rows


def csd_by_definition(student, teacher, temperature=4.0):
    batch, classes = student.shape[:2]
    total = 0.0
    for b in range(batch):
        ours, theirs = distributions(student[b], temperature), distributions(teacher[b], temperature)
        for i, j in np.ndindex(classes, classes):
            total += sum(p * q - u * v for p, q, u, v in zip(ours[i], ours[j], theirs[i], theirs[j])) ** 2
    return total / (batch * classes**2)


def maps(who, batch=2, grid=(3, 4)):
    return normal(*((batch, width, *grid) for width in WIDTHS[who]), seed=WIDTHS[who][1])


def tensors(arrays):
    return [None if a is None else torch.tensor(a) for a in arrays]


@examples(st.integers(1, 3), st.tuples(st.integers(1, 5), st.integers(2, 5)), st.sampled_from([(), (1.0,), (4.0,)]))
def test_both_terms_are_their_definitions_on_any_grid(batch, grid, temperature):
    student, teacher = maps("student", batch, grid), maps("teacher", batch, grid)
    check(lambda *s: pixel_similarity(s, tensors(teacher)), lambda *s: psd_by_definition(s, teacher), *student)
    loss, definition = (lambda s, t, f=f: f(s, t, *temperature) for f in (category_similarity, csd_by_definition))
    check(loss, definition, 3 * student[2], 3 * teacher[2], abs=1e-18)


def test_gradients_are_those_of_the_definitions():
    student, teacher = maps("student", grid=(2, 3)), maps("teacher", grid=(2, 3))
    check(lambda *s: pixel_similarity(s, tensors(teacher)), lambda *s: psd_by_definition(s, teacher), *student, leaves=[0, 1, 2])
    loss, definition = (lambda s, t, f=f: f(s, t, 0.5) for f in (category_similarity, csd_by_definition))
    check(loss, definition, student[2], teacher[2], leaves=[0], atol=1e-9)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("gone, left", [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_missing_map_leaves_the_other_pair(side, gone, left):
    given = {"student": maps("student"), "teacher": maps("teacher")}
    expected = psd_by_definition(*given.values(), [left])
    given[side][gone] = None
    assert pixel_similarity(*map(tensors, given.values())).item() == pytest.approx(expected, rel=1e-8)
    given[side][left[0]] = None
    assert pixel_similarity(*map(tensors, given.values())).item() == 0


@pytest.mark.parametrize("dtype, rel", [(torch.float64, 1e-8), (torch.bfloat16, 1e-4)])
def test_logits_in_place_of_auxiliary_logits_do_not_swallow_the_gradient(dtype, rel):
    """The released list of a network without auxiliary head names its logits twice; here that pair is left out."""
    (_, feature, z), teacher = ([t.to(dtype) for t in tensors(maps(who))] for who in WIDTHS)
    value = pixel_similarity([z.requires_grad_(), feature, z], teacher)
    exact = [[t.detach().double().numpy() for t in found] for found in ([z, feature, z], teacher)]
    assert value.item() == pytest.approx(psd_by_definition(*exact, pairs=[(0, 1), (1, 2)]), rel=rel)
    value.backward()
    assert z.grad.abs().max() > 1e-3


def test_its_gradient_is_that_of_the_definition():
    (_, feature, logits), teacher = maps("student"), maps("teacher")
    definition = lambda z: psd_by_definition([z, feature, z], teacher, pairs=[(0, 1), (1, 2)])
    check(lambda z: pixel_similarity([z, torch.tensor(feature), z], tensors(teacher)), definition, logits, leaves=[0])


def test_without_a_pair_half_precision_gives_a_plain_zero():
    z = torch.full((1, 3, 40, 40), 400.0, dtype=torch.float16, requires_grad=True)
    value = pixel_similarity([None, None, z], [z, z, z])
    value.backward()
    assert value.item() == 0 and value.dtype == torch.float32 and not z.grad.any()


@pytest.mark.parametrize("aux", [True, False])
def test_terms_and_their_weights(aux, info, context):
    step = context(student_aux=aux)
    networks = step.student.detach(), step.teacher.detach()
    given = [[None if t is None else t.numpy() for t in (p.aux_logits, p.feature, p.logits)] for p in networks]
    losses = {name: value.item() for name, value in built(info, "dsd")[0].loss(step).items()}
    pixel, category = psd_by_definition(*given, PAIRS if aux else [(1, 2)]), csd_by_definition(given[0][2], given[1][2])
    assert losses == pytest.approx({"dsd/pixel": 1000 * pixel, "dsd/category": 10 * category}, rel=1e-8)
