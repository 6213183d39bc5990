"""What the tests of the losses share: loops that several definitions are made of, and checks of a formula against its own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from segkd.losses import create_method, task_loss


def examples(*strategies, **named):
    """hypothesis' `given` for a formula: fifteen examples are enough, and loops are slow."""
    return lambda test: settings(max_examples=15)(given(*strategies, **named)(test))


def log_softmax(scores):
    total = math.log(sum(math.exp(v - max(scores)) for v in scores)) + max(scores)
    return [v - total for v in scores]


def softmax(scores):
    return [math.exp(v) for v in log_softmax(scores)]


def divergence(teacher, student):
    """KL(softmax(teacher) || softmax(student)) of two lists of scores."""
    return sum(math.exp(t) * (t - s) for t, s in zip(log_softmax(teacher), log_softmax(student)))


def dot(u, v):
    return sum(a * b for a, b in zip(u, v))


def unit(vector, least=1e-12):
    length = max(math.sqrt(dot(vector, vector)), least)
    return [v / length for v in vector]


def attention(feature):
    """Unit vector over the positions of one image (A, h, w): mean over channels of the squares, normalised."""
    points = [feature[:, y, x] for y, x in np.ndindex(feature.shape[1:])]
    return unit([dot(point, point) / len(feature) for point in points])


def normal(*shapes, seed=0, scale=1.0):
    """Arrays of these shapes, N(0, scale^2)."""
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(shape) for shape in shapes]


def maps(batch=2, widths=(3, 5), grid=(2, 3), seed=0):
    """Maps of a student and a teacher."""
    return normal(*((batch, width, *grid) for width in widths), seed=seed)


def arrays(*tensors):
    """The values of tensors."""
    return [tensor.detach().numpy() for tensor in tensors]


def numeric_gradient(function, x, eps=1e-6):
    """Central differences of a function of one float64 array."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += eps
        down[i] -= eps
        out[i] = (function(up) - function(down)) / (2 * eps)
    return out


def check(loss, definition, *given, leaves=(), rel=1e-8, abs=1e-12, atol=1e-8):
    """``loss`` of tensors is ``definition`` of the same arrays, and so is its gradient for those numbered ``leaves``."""
    tensors = [torch.tensor(a, requires_grad=i in leaves) for i, a in enumerate(given)]
    value = loss(*tensors)
    assert value.shape == () and value.dtype == torch.float64
    assert value.item() == pytest.approx(definition(*given), rel=rel, abs=abs)
    if leaves:
        value.backward()
    for i in leaves:
        gradient = tensors[i].grad if tensors[i].grad is not None else torch.zeros_like(tensors[i])
        expected = numeric_gradient(lambda a, i=i: definition(*given[:i], a, *given[i + 1 :]), given[i])
        np.testing.assert_allclose(gradient.numpy(), expected, atol=atol)


def built(info, spec, variant="paper", **hyper):
    """A method for the networks of ``info``, and its modules by part, in float64."""
    method = create_method(spec, variant, **hyper)
    return method, method.build(info.student, info.teacher).double()


def total_loss(method, step):
    """What the method says of a step, as a sum and by term: the weighted task loss of a weighting, else its own terms."""
    weight = method.task_weight(step)
    parts = task_loss(step.student, step.labels, weight=weight) if weight else method.loss(step)
    return sum(parts.values()), parts
