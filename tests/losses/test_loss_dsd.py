"""DSD's two terms against plain loops, maps that are missing, and the student whose auxiliary map is its logits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.dsd import category_similarity, pixel_similarity

WIDTHS = {"student": (3, 5, 3), "teacher": (3, 7, 3)}  # auxiliary logits, feature, logits


def unit(vector):
    norm = max(math.sqrt(sum(v * v for v in vector)), 1e-12)
    return [v / norm for v in vector]


def attention(feature):
    return unit([sum(c * c for c in feature[:, y, x]) / len(feature) for y, x in np.ndindex(feature.shape[1:])])


def residual(shallow, deep):
    return unit([d - s for s, d in zip(attention(shallow), attention(deep))])


def psd_by_definition(student, teacher, pairs=((0, 1), (0, 2), (1, 2))):
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


def maps(who, batch=2, grid=(3, 4), seed=0):
    rng = np.random.default_rng([seed, len(who), WIDTHS[who][1]])
    return [rng.standard_normal((batch, width, *grid)) for width in WIDTHS[who]]


def tensors(arrays):
    return [None if a is None else torch.tensor(a) for a in arrays]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.tuples(st.integers(1, 5), st.integers(2, 5)))
def test_both_terms_are_their_definitions_on_any_grid(batch, grid):
    student, teacher = maps("student", batch, grid), maps("teacher", batch, grid)
    value = pixel_similarity(tensors(student), tensors(teacher))
    assert value.ndim == 0 and value.item() == pytest.approx(psd_by_definition(student, teacher), rel=1e-8)
    z, t = 3 * student[2], 3 * teacher[2]
    for temperature in (1.0, 4.0):
        value = category_similarity(torch.tensor(z), torch.tensor(t), temperature)
        assert value.ndim == 0
        assert value.item() == pytest.approx(csd_by_definition(z, t, temperature), rel=1e-8, abs=1e-18)
    assert category_similarity(torch.tensor(z), torch.tensor(t)) == value  # 4 is the default


def test_gradients_are_those_of_the_definitions(numeric_gradient):
    student, teacher = maps("student", grid=(2, 3)), maps("teacher", grid=(2, 3))
    leaves = [t.requires_grad_() for t in tensors(student)]
    assert torch.autograd.gradcheck(lambda *s: pixel_similarity(list(s), tensors(teacher)), leaves)
    pixel_similarity(leaves, tensors(teacher)).backward()
    for i, leaf in enumerate(leaves):
        others = student[:i], student[i + 1 :]
        expected = numeric_gradient(lambda a, o=others: psd_by_definition([*o[0], a, *o[1]], teacher), student[i])
        np.testing.assert_allclose(leaf.grad.numpy(), expected, atol=1e-8)
    z = torch.tensor(student[2], requires_grad=True)
    category_similarity(z, torch.tensor(teacher[2]), 0.5).backward()
    expected = numeric_gradient(lambda a: csd_by_definition(a, teacher[2], 0.5), student[2])
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-9)
    assert torch.autograd.gradcheck(lambda s: category_similarity(s, torch.tensor(teacher[2]), 0.5), z)


def test_zero_and_stationary_where_student_equals_teacher():
    teacher = tensors(maps("teacher"))
    leaves = [t.clone().requires_grad_() for t in teacher]
    value = pixel_similarity(leaves, teacher) + category_similarity(leaves[2], teacher[2])
    value.backward()
    assert value.item() < 1e-30 and all(leaf.grad.abs().max() < 1e-14 for leaf in leaves)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_missing_map_takes_its_pairs_away(side):
    student, teacher = maps("student"), maps("teacher")
    for i, left in [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))]:
        given = {"student": list(student), "teacher": list(teacher)}
        given[side][i] = None
        value = pixel_similarity(tensors(given["student"]), tensors(given["teacher"]))
        assert value.item() == pytest.approx(psd_by_definition(student, teacher, [left]), rel=1e-8)
    given[side][1] = None
    assert pixel_similarity(tensors(given["student"]), tensors(given["teacher"])).item() == 0


def test_logits_in_place_of_auxiliary_logits_do_not_swallow_the_gradient(numeric_gradient):
    """The released list of a network without auxiliary head names its logits twice."""
    student, teacher = maps("student"), maps("teacher")
    feature, z = torch.tensor(student[1]), torch.tensor(student[2], requires_grad=True)
    value = pixel_similarity([z, feature, z], tensors(teacher))

    def by_definition(a):
        return psd_by_definition([a, student[1], a], teacher, pairs=[(0, 1), (1, 2)])

    assert value.item() == pytest.approx(by_definition(student[2]), rel=1e-8)
    value.backward()
    np.testing.assert_allclose(z.grad.numpy(), numeric_gradient(by_definition, student[2]), atol=1e-8)
    assert z.grad.abs().max() > 1e-3


def test_finite_for_huge_half_precision_logits():
    student, teacher = (400 * torch.tensor(maps(who)[2]) for who in WIDTHS)
    for loss in (category_similarity, lambda s, t: pixel_similarity([s, s.flip(3)], [t, t.flip(3)])):
        z = student.half().requires_grad_()
        value = loss(z, teacher.half())
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(value) and torch.isfinite(z.grad).all()
        assert value.item() == pytest.approx(loss(student, teacher).item(), rel=1e-2)


def test_one_tensor_twice_is_seen_in_half_precision_too():
    student, teacher = ([t.bfloat16() for t in tensors(maps(who))] for who in WIDTHS)
    z = student[2].requires_grad_()
    value = pixel_similarity([z, student[1], z], teacher)
    exact = [[t.detach().double().numpy() for t in arrays] for arrays in ([z, student[1], z], teacher)]
    assert value.item() == pytest.approx(psd_by_definition(*exact, pairs=[(0, 1), (1, 2)]), rel=1e-4)
    value.backward()
    assert z.grad.abs().max() > 1e-3


@pytest.mark.parametrize("aux", [True, False])
def test_terms_and_their_weights(aux, info, context):
    step, method = context(student_aux=aux), create_method("dsd")
    method.build(info.student, info.teacher)
    networks = step.student.detach(), step.teacher.detach()
    given = [[None if t is None else t.numpy() for t in (p.aux_logits, p.feature, p.logits)] for p in networks]
    losses = {name: value.item() for name, value in method.loss(step).items()}
    pairs = [(0, 1), (0, 2), (1, 2)] if aux else [(1, 2)]
    pixel, category = psd_by_definition(*given, pairs), csd_by_definition(given[0][2], given[1][2])
    assert losses == pytest.approx({"dsd/pixel": 1000 * pixel, "dsd/category": 10 * category}, rel=1e-8)


def test_without_a_pair_half_precision_gives_a_plain_zero():
    z = torch.full((1, 3, 40, 40), 400.0, dtype=torch.float16, requires_grad=True)
    value = pixel_similarity([None, None, z], [z, z, z])
    value.backward()
    assert value.item() == 0 and value.dtype == torch.float32 and not z.grad.any()
