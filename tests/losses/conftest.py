"""Small random predictions and contexts for the tests of the losses."""

from types import SimpleNamespace

import pytest
import torch

from segkd.losses import Context
from segkd.prediction import IGNORE, NetworkInfo, Prediction

pytest.register_assert_rewrite("tests.losses.harness")

CLASSES, STUDENT_WIDTH, TEACHER_WIDTH = 4, 5, 7


def network(width, seed, dtype, batch, grid, scale=1.0, aux=True, grad=False):
    """A prediction whose logits follow from its feature and classifier; ``grad`` makes its leaves require gradient."""
    g = torch.Generator().manual_seed(seed)
    leaf = lambda *shape: (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype).requires_grad_(grad)
    feature, weight, bias = leaf(batch, width, *grid), leaf(CLASSES, width), leaf(CLASSES)
    logits = torch.einsum("ca,bahw->bchw", weight, feature) + bias[:, None, None]
    aux_logits = leaf(batch, CLASSES, *grid) if aux else None
    return Prediction(logits, aux_logits, feature, (feature,), (weight, bias))


@pytest.fixture
def info():
    """Descriptions of the student and the teacher that `context` makes."""
    student = NetworkInfo("student", CLASSES, 3, STUDENT_WIDTH, (STUDENT_WIDTH,), True)
    return SimpleNamespace(student=student, teacher=NetworkInfo("teacher", CLASSES, 3, TEACHER_WIDTH, (TEACHER_WIDTH,), True))


@pytest.fixture
def context():
    """``context(dtype=, batch=, scale=, labels=, step=...)`` makes one training step on a 3 x 4 grid, labels 9 x 12."""

    def make(dtype=torch.float64, batch=2, scale=1.0, labels=None, step=3, total=10, student_aux=True, seed=0, **kw):
        student = network(STUDENT_WIDTH, seed, dtype, batch, (3, 4), scale**0.5, student_aux, grad=True)
        teacher = network(TEACHER_WIDTH, seed + 1, dtype, batch, (3, 4), scale**0.5, grad=True)
        if labels is None:
            g = torch.Generator().manual_seed(seed + 2)
            labels = torch.randint(0, CLASSES, (batch, 9, 12), generator=g)
            labels[:, 0, :5] = IGNORE
        images = torch.zeros(batch, 3, 9, 12)
        return Context(step, total, images, labels, student, teacher, torch.Generator().manual_seed(seed), **kw)

    return make
