"""MGD against plain loops: the masked student feature through a generator, summed over channels and positions."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from segkd.losses.mgd import masked_generation, random_mask
from tests.losses.harness import arrays, built, check, examples, normal


def convolve(maps, weight, bias):
    """3 x 3 convolution of maps (A, h, w) with a border of zeros."""
    height, width = maps.shape[1:]
    out = np.zeros((len(weight), height, width))
    for o, y, x in np.ndindex(out.shape):
        out[o, y, x] = bias[o]
        for i, dy, dx in np.ndindex(weight.shape[1:]):
            row, column = y + dy - 1, x + dx - 1
            if 0 <= row < height and 0 <= column < width:
                out[o, y, x] += weight[o, i, dy, dx] * maps[i, row, column]
    return out


def mgd_by_definition(student, teacher, mask, *parameters):
    """``parameters`` of conv -> ReLU -> conv; without them nothing is generated."""
    total = 0.0
    for b in range(len(student)):
        made = np.array([[[v * m for v, m in zip(*rows)] for rows in zip(s, mask[b, 0])] for s in student[b]])
        if parameters:
            made = convolve(np.maximum(convolve(made, *parameters[:2]), 0), *parameters[2:])
        total += sum((made[index] - teacher[b][index]) ** 2 for index in np.ndindex(made.shape))
    return total / len(student)


def generated(student, teacher, mask, *parameters):
    net = lambda x: nn.functional.conv2d(nn.functional.conv2d(x, *parameters[:2], padding=1).relu(), *parameters[2:], padding=1)
    return masked_generation(student, teacher, net if parameters else nn.Identity(), mask)


def case(seed=0, shape=(2, 2, 2, 3), identity=False):
    mask = (np.random.default_rng(seed).random((shape[0], 1, *shape[2:])) > 0.5).astype(float)
    layer = [(shape[1], shape[1], 3, 3), (shape[1],)]
    return *normal(shape, shape, seed=seed), mask, *([] if identity else normal(*layer, *layer, seed=seed, scale=0.5))


@examples(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    identity=st.booleans(),
    seed=st.integers(0, 99),
)
def test_loss_is_its_definition(shape, identity, seed):
    check(generated, mgd_by_definition, *case(seed, shape, identity))


@pytest.mark.parametrize("identity", [False, True])
def test_gradient_for_the_student_and_the_generator(identity):
    given = case(identity=identity)
    check(generated, mgd_by_definition, *given, leaves=[0, *range(3, len(given))], rel=1e-7, atol=1e-6)


def test_hidden_positions_are_hidden_before_the_generator():
    student, teacher, mask, *parameters = map(torch.tensor, case())
    other = torch.where(mask == 0, student + 5, student)
    assert torch.equal(generated(student, teacher, mask, *parameters), generated(other, teacher, mask, *parameters))


def test_masks_keep_a_quarter_of_the_positions():
    feature = torch.zeros(4, 2, 50, 60, dtype=torch.float64)
    draw = lambda seed, masked=0.75: random_mask(feature, masked, torch.Generator().manual_seed(seed))
    mask = draw(0)
    assert mask.shape == (4, 1, 50, 60) and mask.dtype == torch.float64 and ((mask == 0) | (mask == 1)).all()
    assert mask.mean().item() == pytest.approx(0.25, abs=0.02), "12000 draws: five standard deviations"
    assert torch.equal(mask, draw(0)) and not torch.equal(mask, draw(1)) and not torch.equal(mask[0], mask[1])
    assert draw(0, masked=0.0).min() == 1 and draw(0, masked=1.0).max() == 0


@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_the_loss_aligns_the_head_feature(masked, info, context):
    step, (method, modules) = context(), built(info, "mgd", masked=masked)
    student, teacher = arrays(step.student.feature, step.teacher.feature)
    weight, bias = arrays(*modules["mgd"].align.parameters())
    aligned = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], student) + bias[:, None, None]
    mask, parameters = np.full((2, 1, 3, 4), 1 - masked), arrays(*modules["mgd"].generator.parameters())
    expected = 2e-5 * mgd_by_definition(aligned, teacher, mask, *parameters)
    assert method.loss(step)["mgd"].item() == pytest.approx(expected, rel=1e-8)
