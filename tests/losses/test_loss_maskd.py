"""MasKD against plain loops: masks of receptive tokens, the distance under them and their overlap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.maskd import mask_loss, masked_mse, receptive_masks, token_dice
from segkd.prediction import IGNORE, Prediction
from tests.losses.harness import arrays, built, check, dot, examples, log_softmax, normal


def masks_by_definition(teacher, tokens):
    """One list of masks per image: mask t has, pixel by pixel, the sigmoid of token t times the pixel's scores."""
    batch, _, height, width = teacher.shape
    out = np.zeros((batch, len(tokens), height, width))
    for b, t, y, x in np.ndindex(out.shape):
        out[b, t, y, x] = 1 / (1 + math.exp(-dot(tokens[t], teacher[b, :, y, x])))
    return out


def mse_by_definition(student, teacher, tokens):
    masks, ratios = masks_by_definition(teacher, tokens), []
    for b, t, c in np.ndindex(len(student), len(tokens), student.shape[1]):
        mask, gap = masks[b, t].ravel(), (student[b, c] - teacher[b, c]).ravel()
        ratios.append(sum(m**2 * g**2 for m, g in zip(mask, gap)) / (sum(mask) + 1e-5))
    return 0.5 * sum(ratios) / len(ratios)


def dice_by_definition(teacher, tokens):
    masks, overlaps = masks_by_definition(teacher, tokens), []
    for b, t, u in np.ndindex(len(teacher), len(tokens), len(tokens)):
        if t != u:
            one, two = masks[b, t].ravel(), masks[b, u].ravel()
            overlaps.append(2 * dot(one, two) / (dot(one, one) + dot(two, two) + 2e-12))
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def upsample(scores, size):
    """Linear along columns, then along rows, corners on corners."""
    for axis, new in zip((-1, -2), reversed(size)):
        at = np.linspace(0, scores.shape[axis] - 1, new)
        scores = np.apply_along_axis(lambda v, at=at: np.interp(at, range(len(v)), v), axis, scores)
    return scores


def mask_loss_by_definition(teacher, labels, tokens):
    masked = teacher * masks_by_definition(teacher, tokens).sum(1, keepdims=True)
    fine, losses = upsample(masked, labels.shape[1:]), []
    for b, y, x in np.ndindex(labels.shape):
        if labels[b, y, x] != IGNORE:
            losses.append(-log_softmax(fine[b, :, y, x])[labels[b, y, x]])
    return (np.mean(losses) if losses else 0.0) + dice_by_definition(teacher, tokens)


def case(seed=0, shape=(2, 3, 2, 3), tokens=4):
    return normal(shape, shape, (tokens, shape[1]), seed=seed)


@examples(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    tokens=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_formulas_are_their_definitions(shape, tokens, seed):
    student, teacher, table = case(seed, shape, tokens)
    found = receptive_masks(torch.tensor(teacher), torch.tensor(table))
    np.testing.assert_allclose(found.numpy(), masks_by_definition(teacher, table), rtol=1e-8)
    check(masked_mse, mse_by_definition, student, teacher, table)
    check(token_dice, dice_by_definition, teacher, table)


def test_gradients():
    student, teacher, tokens = case()
    check(masked_mse, mse_by_definition, student, teacher, tokens, leaves=[0])
    check(token_dice, dice_by_definition, teacher, tokens, leaves=[1])
    assert torch.autograd.gradcheck(receptive_masks, (torch.tensor(teacher), torch.tensor(tokens, requires_grad=True)))


def test_overlap_of_equal_disjoint_and_single_masks():
    teacher = torch.tensor([[[[60.0, -60.0]]]], dtype=torch.float64)
    for tokens, overlap in (([1, 1], 1), ([1, -1], 0), ([1, 1, -1], 1 / 3), ([1], 0)):
        found = token_dice(teacher, torch.tensor(tokens, dtype=torch.float64)[:, None])
        assert found.item() == pytest.approx(overlap, abs=1e-9)


def test_shut_masks_and_large_scores_stay_finite():
    student, teacher, tokens = (400 * torch.tensor(a) for a in case())
    shut = -tokens.abs() - 1
    student.requires_grad_()
    value = masked_mse(student, teacher, tokens) + masked_mse(student, teacher.abs(), shut)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
    assert torch.isfinite(token_dice(teacher, tokens)) and torch.isfinite(token_dice(teacher.abs(), shut))


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_what_the_tokens_learn_from(ignored):
    _, teacher, tokens = case()
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((2, 5, 7)) < ignored, IGNORE, rng.integers(0, 3, (2, 5, 7)))
    loss = lambda m: mask_loss(Prediction(torch.tensor(teacher)), torch.tensor(labels), m)
    check(loss, lambda m: mask_loss_by_definition(teacher, labels, m), tokens, leaves=[0])


@pytest.mark.parametrize("aux", [True, False])
def test_the_loss_adds_the_auxiliary_head_under_the_same_tokens(aux, info, context):
    step, (method, modules) = context(student_aux=aux), built(info, "maskd")
    (tokens,) = modules.parameters()
    assert tokens.shape == (8, 4) and not tokens.requires_grad
    expected = mse_by_definition(*arrays(step.student.logits, step.teacher.logits, tokens))
    if aux:
        expected += 0.4 * mse_by_definition(*arrays(step.student.aux_logits, step.teacher.aux_logits, tokens))
    assert sum(method.loss(step).values()).item() == pytest.approx(expected, rel=1e-8)
