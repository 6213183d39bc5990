"""HWD's weights against plain loops over Eq. 5-7, its ablation switches, and the limits that divide by zero."""

import math

import numpy as np
import pytest
import torch

from segkd.losses.cwd import channelwise_kl
from segkd.losses.hwd import holistic_weights
from tests.losses.harness import built, normal, softmax


def distance(t, s, kind):
    gap = abs(t - s)
    rules = {"mse": gap**2, "l1": gap, "smooth_l1": 0.5 * gap**2 if gap < 1 else gap - 0.5}
    return t * math.log(t / s) if kind == "kl" else rules[kind]


def weights_by_definition(student, teacher, labels=None, temperature=4.0, mu=0.0, sigma=1.0, beta=0.1, **options):
    """The weights of one batch by loops; ``labels`` on the grid."""
    kind, high = options.get("divergence", "mse"), options.get("softmax_temperature")
    rules = {"n": lambda n: n, "sqrt": math.sqrt, "n2": lambda n: n**2, "none": lambda n: 1}
    correct = rules[options.get("count", "n")]
    rows = []
    for b in range(student.shape[0]):
        gaps = []
        for c in range(student.shape[1]):
            maps = [list(x[b, c].ravel()) for x in (teacher, student)]
            if not options.get("on_logits"):
                maps = [softmax([v / temperature for v in m]) for m in maps]
            gap = sum(distance(t, s, kind) for t, s in zip(*maps)) / len(maps[0])
            if labels is not None:
                gap /= correct(1 + sum(int(y == c) for y in labels[b].ravel()))
            gaps.append(gap)
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1))
        standard = [mu + sigma * (g - mean) / deviation for g in gaps]
        smooth = [g / high if high else (1 - beta**g) / (1 - beta) for g in standard]
        rows.append([len(gaps) * math.exp(s) / sum(math.exp(u) for u in smooth) for s in smooth])
    return np.array(rows)


def batch(shape=(2, 4, 3, 4)):
    labels = np.random.default_rng(0).integers(0, shape[1], (shape[0], *shape[2:]))
    labels[0, 0, :2] = 255
    return *normal(shape, shape, scale=3), labels


OPTIONS = [
    {}, {"mu": 1.0, "count": "none"}, {"sigma": 2.0, "beta": 0.7, "temperature": 2.0}, {"count": "sqrt"}, {"count": "n2"},
    {"divergence": "l1"}, {"divergence": "smooth_l1"}, {"divergence": "kl"}, {"on_logits": True},
    {"on_logits": True, "divergence": "smooth_l1"}, {"softmax_temperature": 3.0, "mu": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_are_their_definition(options):
    student, teacher, labels = batch()
    given = torch.tensor(student), torch.tensor(teacher)
    for used in (labels, None):
        value = holistic_weights(*given, None if used is None else torch.tensor(used), **options)
        np.testing.assert_allclose(value.numpy(), weights_by_definition(student, teacher, used, **options), atol=1e-8)
        np.testing.assert_allclose(value.sum(1).numpy(), student.shape[1])


def test_labels_reach_the_grid_by_nearest():
    student, teacher, labels = map(torch.tensor, batch())
    fine = labels.repeat_interleave(3, 1).repeat_interleave(3, 2)
    fine[:, 1::3] = 0  # rows that floor sampling never meets
    assert torch.equal(holistic_weights(student, teacher, fine), holistic_weights(student, teacher, labels))


def test_weights_carry_no_gradient():
    student, teacher, labels = (torch.tensor(a) for a in batch())
    assert not holistic_weights(student.requires_grad_(), teacher.requires_grad_(), labels).requires_grad


@pytest.mark.parametrize("mu", [0.0, 1.0, -0.5])
def test_equal_divergences_or_one_channel_give_equal_weights(mu):
    student, teacher, _ = (torch.tensor(a) for a in batch())
    assert torch.equal(holistic_weights(student, student, mu=mu), torch.ones(2, 4, dtype=torch.float64))
    repeated = student[:, :1].expand(-1, 4, -1, -1), teacher[:, :1].expand(-1, 4, -1, -1)
    assert torch.equal(holistic_weights(*repeated, mu=mu), torch.ones(2, 4, dtype=torch.float64))
    repeated = [channel[:, :1].expand(-1, 7, -1, -1) for channel in (student, teacher)]
    for step in (1 / 3, 1.0):  # the same maps but for rounding
        shifts = step * torch.arange(7, dtype=torch.float64)[:, None, None]
        value = holistic_weights(repeated[0] + shifts, repeated[1] - shifts, mu=mu)
        assert torch.equal(value, torch.ones(2, 7, dtype=torch.float64))
    assert torch.equal(holistic_weights(student[:, :1], teacher[:, :1], mu=mu), torch.ones(2, 1, dtype=torch.float64))


def test_divergences_too_small_to_square_in_single_precision_still_count():
    student, teacher, _ = (torch.tensor(a) for a in batch(shape=(1, 4, 32, 32)))
    close = teacher + 1e-3 * (student - teacher)
    fine, single = holistic_weights(close, teacher), holistic_weights(close.float(), teacher.float())
    np.testing.assert_allclose(single.numpy(), fine.numpy(), rtol=2e-2)
    assert fine.std() > 0.1


@pytest.mark.parametrize("variant, options", [("paper", {}), ("official", {"mu": 1.0, "count": "none"})])
def test_the_loss_is_weighted_cwd(variant, options, info, context):
    step = context()
    student, teacher = step.student.logits.detach(), step.teacher.logits.detach()
    weights = weights_by_definition(student.numpy(), teacher.numpy(), step.labels[:, ::3, ::3].numpy(), **options)
    expected = 3 * channelwise_kl(student, teacher, 4.0, torch.tensor(weights))
    assert built(info, "hwd", variant)[0].loss(step)["hwd"].item() == pytest.approx(expected.item(), abs=1e-8)
