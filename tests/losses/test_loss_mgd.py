"""MGD against plain loops: the masked student feature through a generator, summed over channels and positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segkd.losses import create_method
from segkd.losses.mgd import masked_generation, random_mask


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


def generate(maps, parameters):
    """conv -> ReLU -> conv, or nothing without parameters."""
    if not parameters:
        return maps
    first, second = parameters[:2], parameters[2:]
    return convolve(np.maximum(convolve(maps, *first), 0), *second)


def mgd_by_definition(student, teacher, mask, parameters=()):
    total = 0.0
    for b in range(len(student)):
        masked = np.array([[[v * m for v, m in zip(*rows)] for rows in zip(s, mask[b, 0])] for s in student[b]])
        made = generate(masked, parameters)
        for index in np.ndindex(made.shape):
            total += (made[index] - teacher[b][index]) ** 2
    return total / len(student)


def small_net(channels, seed=0):
    torch.manual_seed(seed)
    conv = lambda: nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(conv(), nn.ReLU(), conv()).double()


def arrays(seed=0, shape=(2, 3, 3, 4)):
    rng = np.random.default_rng(seed)
    mask = (rng.random((shape[0], 1, *shape[2:])) > 0.5).astype(float)
    return rng.standard_normal(shape), rng.standard_normal(shape), mask


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    identity=st.booleans(),
    seed=st.integers(0, 99),
)
def test_loss_is_its_definition(shape, identity, seed):
    student, teacher, mask = arrays(seed, shape)
    net = nn.Identity() if identity else small_net(shape[1], seed)
    parameters = [p.detach().numpy() for p in net.parameters()]
    value = masked_generation(torch.tensor(student), torch.tensor(teacher), net, torch.tensor(mask))
    assert value.shape == () and value.dtype == torch.float64
    assert value.item() == pytest.approx(mgd_by_definition(student, teacher, mask, parameters), rel=1e-8)


def test_gradient_for_the_student_and_the_generator():
    student, teacher, mask = (torch.tensor(a) for a in arrays(shape=(2, 2, 2, 2)))
    net = small_net(2)
    names = [name for name, _ in net.named_parameters()]

    def loss(feature, *parameters):
        call = lambda x: torch.func.functional_call(net, dict(zip(names, parameters)), (x,))
        return masked_generation(feature, teacher, call, mask)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), *net.parameters()))


def test_one_keeps_and_zero_hides():
    student, teacher, mask = (torch.tensor(a) for a in arrays())
    loss = lambda s, m: masked_generation(s, teacher, nn.Identity(), m)
    assert loss(teacher, torch.ones_like(mask)).item() == 0
    assert loss(student, torch.zeros_like(mask)).item() == pytest.approx(teacher.square().sum().item() / 2)
    student.requires_grad_()
    loss(student, mask).backward()
    hidden = (mask == 0).expand_as(student)
    assert (student.grad[hidden] == 0).all() and (student.grad[~hidden] != 0).all()


def test_hidden_positions_are_hidden_before_the_generator():
    student, teacher, mask = (torch.tensor(a) for a in arrays())
    net = small_net(3)
    other = torch.where(mask == 0, student + 5, student)
    same, changed = (masked_generation(s, teacher, net, mask) for s in (student, other))
    assert torch.equal(same, changed)


def test_sum_over_channels_and_positions_mean_over_images():
    student, teacher, mask = (torch.tensor(a) for a in arrays())
    loss = lambda *tensors: masked_generation(tensors[0], tensors[1], nn.Identity(), tensors[2]).item()
    once = loss(student, teacher, mask)
    assert loss(*(torch.cat([t, t]) for t in (student, teacher, mask))) == pytest.approx(once)
    assert loss(*(torch.cat([t, t], 3) for t in (student, teacher, mask))) == pytest.approx(2 * once)
    assert loss(*(torch.cat([t, t], 1) for t in (student, teacher)), mask) == pytest.approx(2 * once)


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
    step, method = context(), create_method("mgd", masked=masked)
    modules = method.build(info.student, info.teacher)["mgd"].double()
    student, teacher = step.student.feature.detach().numpy(), step.teacher.feature.detach().numpy()
    weight, bias = (p.detach().numpy() for p in modules.align.parameters())
    aligned = np.zeros_like(teacher)
    for b, o, y, x in np.ndindex(aligned.shape):
        aligned[b, o, y, x] = bias[o] + sum(w * v for w, v in zip(weight[o, :, 0, 0], student[b, :, y, x]))
    mask, parameters = np.full((2, 1, 3, 4), 1 - masked), [p.detach().numpy() for p in modules.generator.parameters()]
    expected = 2e-5 * mgd_by_definition(aligned, teacher, mask, parameters)
    assert method.loss(step)["mgd"].item() == pytest.approx(expected, rel=1e-8)
