"""Detail guidance: target and loss against loops in float64, ignored pixels, gradient, and its place in the task loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segkd.losses import TaskWeight, create_method, task_loss
from segkd.losses.detail import detail_loss, detail_target
from segkd.prediction import Prediction
from tests.losses.harness import check

LABELS = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 2), st.integers(1, 11), st.integers(1, 11)), elements=st.sampled_from([0, 1, 2, 18, 255])
)


def laplacian(labels: np.ndarray, row: int, column: int) -> float:
    """8 times the label minus its eight neighbours; a neighbour that is ignored or outside is as the pixel itself."""
    here, total = labels[row, column], 0.0
    for i in range(row - 1, row + 2):
        for j in range(column - 1, column + 2):
            real = 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1] and labels[i, j] != 255
            total += here - (labels[i, j] if real else here)
    return total


def target_by_definition(labels: np.ndarray) -> np.ndarray:
    height, width = labels.shape
    fused = np.zeros(labels.shape)
    for step, weight in ((1, 0.6), (2, 0.3), (4, 0.1)):
        rows, columns = -(-height // step), -(-width // step)
        for r in range(height):
            for c in range(width):  # nearest: the cell under the pixel, on a grid that need not divide the image
                i, j = step * (r * rows // height), step * (c * columns // width)
                fused[r, c] += weight * (labels[i, j] != 255 and laplacian(labels, i, j) > 0.1)
    return (fused > 0.1) & (labels != 255)


def loss_by_definition(logits: np.ndarray, labels: np.ndarray, align_corners: bool = True) -> float:
    up = torch.nn.functional.interpolate(
        torch.from_numpy(logits), size=labels.shape[1:], mode="bilinear", align_corners=align_corners
    ).numpy()[:, 0]
    entropies, dices = [], []
    for scores, label in zip(up, labels):
        target, probability = target_by_definition(label), 1 / (1 + np.exp(-scores))
        overlap = sizes = 0.0
        for p, g, y in zip(probability.flat, target.flat, label.flat):
            if y != 255:
                entropies.append(-math.log(p if g else 1 - p))
                overlap, sizes = overlap + p * g, sizes + p * p + g * g
        dices.append(1 - (2 * overlap + 1) / (sizes + 1))
    return float(np.mean(entropies) + np.mean(dices))


def case(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (2, 5, 7)).repeat(2, 1).repeat(2, 2)[:, :9, :13].copy()
    labels[0, :3, :4] = 255
    return rng.normal(size=(2, 1, 3, 4)), labels


@given(LABELS)
@settings(max_examples=40)
def test_target_is_its_definition(labels):
    made = detail_target(torch.from_numpy(labels)).numpy()
    assert made.dtype == bool and (made == np.stack([target_by_definition(one) for one in labels])).all()


def test_target_of_a_known_map_is_the_plain_strided_convolutions():
    """Away from ignored pixels and the frame: convolutions with the printed kernel, as the paper draws them."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 8, 8)).repeat(4, 1).repeat(4, 2)[:, 2:30, 1:29].copy())
    kernel = -torch.ones(1, 1, 3, 3, dtype=torch.float64)
    kernel[0, 0, 1, 1] = 8
    fused = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    for step, weight in ((1, 0.6), (2, 0.3), (4, 0.1)):
        edges = torch.nn.functional.conv2d(labels[:, None].double(), kernel, stride=step, padding=1) > 0.1
        fused += weight * torch.nn.functional.interpolate(edges.double(), size=(28, 28), mode="nearest")
    made = detail_target(labels)
    assert torch.equal(made[:, 4:-4, 4:-4], (fused > 0.1)[0, :, 4:-4, 4:-4]) and 0.2 < made.float().mean() < 0.8


def test_ignored_regions_and_the_frame_have_no_detail():
    labels = torch.full((1, 16, 16), 7)
    assert not detail_target(labels).any(), "one class up to the frame"
    labels[0, 4:9, 5:12] = 255
    assert not detail_target(labels).any(), "one class around an ignored region"
    labels[0, :, 12:] = 3
    edge = detail_target(labels)
    assert edge[0, :, :12].any() and not edge[labels == 255].any(), "the larger number's side of a real boundary"
    assert not detail_target(torch.full((1, 16, 16), 255)).any()


@pytest.mark.parametrize("align_corners", [True, False])
def test_loss_is_its_definition_and_so_is_the_gradient(align_corners):
    logits, labels = case()
    loss = lambda z: detail_loss(z, torch.from_numpy(labels), align_corners)
    check(loss, lambda z: loss_by_definition(z, labels, align_corners), logits, leaves=[0])


def test_nothing_to_see_large_scores_and_half_precision():
    logits, labels = (torch.tensor(x) for x in case())
    leaf = logits.clone().requires_grad_()
    nothing = detail_loss(leaf, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing.item() == 0 and (leaf.grad == 0).all()
    assert math.isfinite(detail_loss(400 * logits, labels).item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = detail_loss(logits.bfloat16(), labels)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(detail_loss(logits.bfloat16().double(), labels).item(), rel=1e-5)


def test_place_in_the_task_loss():
    """It joins where a network shows it, and no task weighting touches it; a label-assisted teacher has two."""
    detail, labels = (torch.tensor(x) for x in case())
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    shown, bare = Prediction(logits, logits, detail_logits=detail), Prediction(logits, logits)
    losses = task_loss(shown, labels)
    assert set(losses) == {"task", "task_aux", "detail"} and losses["detail"] == detail_loss(detail, labels)
    assert {**task_loss(bare, labels), "detail": losses["detail"]} == losses
    weight = TaskWeight(torch.zeros(2, 9, 13), None, "pixels")
    weighted = task_loss(shown, labels, weight=weight)
    assert weighted["detail"] == losses["detail"] and weighted["task"] == 0
    paths = Prediction(*[torch.cat([logits, logits + 1])] * 2, detail_logits=torch.cat([detail, detail + 1]))
    both = create_method("lad").teacher_kind.teacher_loss(paths, labels)
    assert both["detail"] == losses["detail"] + detail_loss(detail + 1, labels)
