"""The task loss against loops over pixels, with its own bilinear resizing, weights and both normalisers."""

import math

import numpy as np
import pytest
import torch

from segkd.losses import TaskWeight, task_loss
from segkd.prediction import Prediction
from tests.losses.harness import check, log_softmax


def upsampled(logits, size, align_corners):
    """Bilinear resizing of (B, C, h, w) by loops."""
    batch, channels, h, w = logits.shape
    out = np.zeros((batch, channels, *size))
    for y, x in np.ndindex(*size):
        where = []
        for place, full, part in ((y, size[0], h), (x, size[1], w)):
            at = place * (part - 1) / (full - 1) if align_corners else max((place + 0.5) * part / full - 0.5, 0)
            low = min(int(at), part - 1)
            where.append((low, min(low + 1, part - 1), at - low))
        (top, bottom, v), (left, right, u) = where
        upper = (1 - u) * logits[..., top, left] + u * logits[..., top, right]
        lower = (1 - u) * logits[..., bottom, left] + u * logits[..., bottom, right]
        out[..., y, x] = (1 - v) * upper + v * lower
    return out


def by_definition(logits, labels, weight=None, normaliser="pixels", align_corners=True):
    scores, total, size = upsampled(logits, labels.shape[1:], align_corners), 0.0, 0.0
    for b, y, x in np.ndindex(*labels.shape):
        w = 1.0 if weight is None else weight[b, y, x]
        ignored = labels[b, y, x] == 255
        if not ignored:
            total -= w * log_softmax(scores[b, :, y, x])[labels[b, y, x]]
        if weight is not None and normaliser == "pixels":
            size += 1
        elif not ignored:
            size += w
    return total / size if size else 0.0


def case(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 255], (2, 5, 7), p=[0.4, 0.3, 0.1, 0.2])
    return 2 * rng.standard_normal((2, 3, 3, 4)), 2 * rng.standard_normal((2, 3, 3, 4)), labels, rng


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("normaliser", [None, "pixels", "selected"])
def test_both_heads_are_their_definition(align_corners, normaliser):
    *heads, labels, rng = case()
    weights = rng.uniform(0, 2, (2, *labels.shape)) if normaliser else (None, None)
    given, options = TaskWeight(*map(torch.tensor, weights), normaliser) if normaliser else None, (normaliser or "pixels", align_corners)
    for i, (name, part) in enumerate((("task", 1.0), ("task_aux", 0.3))):
        loss = lambda *z: task_loss(Prediction(*z), torch.tensor(labels), 0.3, given, align_corners)[name]  # noqa: B023
        definition = lambda *z: part * by_definition(z[i], labels, weights[i], *options)  # noqa: B023
        check(loss, definition, *heads, leaves=[i])


def test_weights_of_one_change_nothing_but_the_mean_over_all_pixels():
    main, aux, labels, _ = (torch.tensor(a) if isinstance(a, np.ndarray) else a for a in case())
    ones, valid = torch.ones(labels.shape, dtype=torch.float64), (labels != 255).double().mean()
    plain = task_loss(Prediction(main, aux), labels)
    selected = task_loss(Prediction(main, aux), labels, weight=TaskWeight(ones, None, "selected"))
    pixels = task_loss(Prediction(main, aux), labels, weight=TaskWeight(ones, None, "pixels"))
    for name in plain:
        torch.testing.assert_close(selected[name], plain[name])
    torch.testing.assert_close(pixels["task"], plain["task"] * valid)
    torch.testing.assert_close(pixels["task_aux"], plain["task_aux"])  # an aux weight of None leaves that head plain


@pytest.mark.parametrize("normaliser", [None, "pixels", "selected"])
def test_nothing_to_learn_from_is_zero_with_zero_gradient(normaliser):
    logits = torch.randn(2, 3, 3, 4, requires_grad=True)
    labels = torch.full((2, 5, 7), 255)
    for given, nothing in [(labels, torch.ones(2, 5, 7)), (torch.zeros_like(labels), torch.zeros(2, 5, 7))]:
        if normaliser is None and (given == 0).all():
            continue
        weight = TaskWeight(nothing, nothing, normaliser) if normaliser else None
        total = sum(task_loss(Prediction(logits, logits), given, weight=weight).values())
        total.backward()
        assert total.item() == 0 and logits.grad.abs().max() == 0


def test_a_network_without_an_auxiliary_head_has_one_term_and_half_precision_is_widened():
    main, _, labels, _ = case()
    main, labels = torch.tensor(main).bfloat16(), torch.tensor(labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task_loss(Prediction(main), labels)
    assert set(losses) == {"task"} and losses["task"].dtype == torch.float32
    assert losses["task"].item() == pytest.approx(task_loss(Prediction(main.double()), labels)["task"].item(), rel=1e-5)
    assert math.isfinite(task_loss(Prediction(400 * main), labels)["task"].item())
