"""MasKD against plain loops: masks of receptive tokens, the distance under them and their overlap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.losses import create_method
from segkd.losses.maskd import mask_loss, masked_mse, receptive_masks, token_dice
from segkd.prediction import IGNORE, Prediction


def masks_by_definition(teacher, tokens):
    """One list of masks per image: mask t has, pixel by pixel, the sigmoid of token t times the pixel's scores."""
    batch, classes, height, width = teacher.shape
    out = np.zeros((batch, len(tokens), height, width))
    for b, t, y, x in np.ndindex(out.shape):
        score = sum(tokens[t, c] * teacher[b, c, y, x] for c in range(classes))
        out[b, t, y, x] = 1 / (1 + math.exp(-score))
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
            overlaps.append(2 * sum(one * two) / (sum(one**2) + sum(two**2) + 2e-12))
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def upsample(scores, size):
    """Linear along columns, then along rows, corners on corners."""
    for axis, new in zip((-1, -2), reversed(size)):
        at = np.linspace(0, scores.shape[axis] - 1, new)
        scores = np.apply_along_axis(lambda v, at=at: np.interp(at, range(len(v)), v), axis, scores)
    return scores


def mask_loss_by_definition(teacher, labels, tokens):
    masked = np.zeros_like(teacher)
    for b, t, c in np.ndindex(len(teacher), len(tokens), teacher.shape[1]):
        masked[b, c] += masks_by_definition(teacher, tokens)[b, t] * teacher[b, c]
    fine, losses = upsample(masked, labels.shape[1:]), []
    for b, y, x in np.ndindex(labels.shape):
        if labels[b, y, x] != IGNORE:
            scores = fine[b, :, y, x]
            losses.append(math.log(sum(math.exp(v) for v in scores)) - scores[labels[b, y, x]])
    return (np.mean(losses) if losses else 0.0) + dice_by_definition(teacher, tokens)


def arrays(seed=0, shape=(2, 3, 2, 3), tokens=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape), rng.standard_normal(shape), rng.standard_normal((tokens, shape[1]))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    tokens=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_formulas_are_their_definitions(shape, tokens, seed):
    student, teacher, table = arrays(seed, shape, tokens)
    s, t, m = (torch.tensor(a) for a in (student, teacher, table))
    np.testing.assert_allclose(receptive_masks(t, m).numpy(), masks_by_definition(teacher, table), rtol=1e-8)
    assert masked_mse(s, t, m).item() == pytest.approx(mse_by_definition(student, teacher, table), rel=1e-8)
    assert token_dice(t, m).item() == pytest.approx(dice_by_definition(teacher, table), rel=1e-8)
    assert masked_mse(s, t, m).shape == token_dice(t, m).shape == ()


def test_gradients():
    student, teacher, tokens = (torch.tensor(a) for a in arrays())
    assert torch.autograd.gradcheck(lambda s: masked_mse(s, teacher, tokens), student.requires_grad_())
    assert torch.autograd.gradcheck(lambda m: token_dice(teacher, m), tokens.requires_grad_())
    assert torch.autograd.gradcheck(lambda m: receptive_masks(teacher, m), tokens)


def test_zero_where_student_is_teacher():
    _, teacher, tokens = (torch.tensor(a) for a in arrays())
    own = teacher.clone().requires_grad_()
    value = masked_mse(own, teacher, tokens)
    value.backward()
    assert value.item() == 0 and (own.grad == 0).all()


def test_masks_enter_squared_above_and_plain_below():
    student, teacher, _ = (torch.tensor(a) for a in arrays())
    half = torch.zeros(1, 3, dtype=torch.float64)  # a token of zeros: every mask is one half
    squares = (student - teacher).square().sum((2, 3)).mean().item()
    expected = 0.5 * (0.25 * squares) / (0.5 * 6 + 1e-5)
    assert masked_mse(student, teacher, half).item() == pytest.approx(expected, rel=1e-12)


def test_masks_follow_the_teacher_alone():
    student, teacher, tokens = (torch.tensor(a) for a in arrays())
    gap = student - teacher
    once, twice = (masked_mse(teacher + k * gap, teacher, tokens).item() for k in (1, 2))
    assert twice == pytest.approx(4 * once, rel=1e-12), "the distance is quadratic in the gap, the masks do not move"


def test_overlap_of_equal_disjoint_and_single_masks():
    teacher = torch.tensor([[[[60.0, -60.0]]]], dtype=torch.float64)
    tokens = lambda *values: torch.tensor(values, dtype=torch.float64)[:, None]
    assert token_dice(teacher, tokens(1.0, 1.0)).item() == pytest.approx(1, abs=1e-9)
    assert token_dice(teacher, tokens(1.0, -1.0)).item() == pytest.approx(0, abs=1e-9)
    assert token_dice(teacher, tokens(1.0, 1.0, -1.0)).item() == pytest.approx(1 / 3, abs=1e-9)
    assert token_dice(teacher, tokens(1.0)).item() == 0


def test_shut_masks_and_large_scores_stay_finite():
    student, teacher, tokens = (400 * torch.tensor(a) for a in arrays())
    shut = -tokens.abs() - 1
    student.requires_grad_()
    value = masked_mse(student, teacher, tokens) + masked_mse(student, teacher.abs(), shut)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
    assert torch.isfinite(token_dice(teacher, tokens)) and torch.isfinite(token_dice(teacher.abs(), shut))


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_what_the_tokens_learn_from(ignored):
    _, teacher, tokens = arrays()
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((2, 5, 7)) < ignored, IGNORE, rng.integers(0, 3, (2, 5, 7)))
    prediction, target = Prediction(torch.tensor(teacher)), torch.tensor(labels)
    table = torch.tensor(tokens, requires_grad=True)
    expected = mask_loss_by_definition(teacher, labels, tokens)
    assert mask_loss(prediction, target, table).item() == pytest.approx(expected, rel=1e-8)
    assert torch.autograd.gradcheck(lambda m: mask_loss(prediction, target, m), table)


@pytest.mark.parametrize("aux", [True, False])
def test_the_loss_adds_the_auxiliary_head_under_the_same_tokens(aux, info, context):
    step, method = context(student_aux=aux), create_method("maskd")
    (tokens,) = method.build(info.student, info.teacher).double().parameters()
    assert tokens.shape == (8, 4) and not tokens.requires_grad
    pairs = [(1.0, step.student.logits, step.teacher.logits)]
    pairs += [(0.4, step.student.aux_logits, step.teacher.aux_logits)] if aux else []
    expected = sum(w * mse_by_definition(s.detach().numpy(), t.detach().numpy(), tokens.numpy()) for w, s, t in pairs)
    assert sum(method.loss(step).values()).item() == pytest.approx(expected, rel=1e-8)
