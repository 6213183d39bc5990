"""SKD's pair-wise affinities against plain loops, the weights of its terms, and the discriminator's own step."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.kd import pixelwise_kl
from segkd.losses.skd import gradient_penalty, pairwise_affinity
from tests.losses.harness import built, check, dot, examples, maps, numeric_gradient


def nodes(feature, pool, lengths_of=None):
    """Unit vectors of one image (A, h, w): channel maxima of windows that the border cuts, each over its length."""
    height, width = feature.shape[1:]
    rows, columns = (max(height // 2, 1), max(width // 2, 1)) if pool == "half" else (pool, pool)
    units = []
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            maxima, fixed = (
                [channel[y : y + rows, x : x + columns].max() for channel in f]
                for f in (feature, feature if lengths_of is None else lengths_of)
            )
            length = math.sqrt(sum(v * v for v in fixed))
            length = length + 1e-8 if pool == "half" else max(length, 1e-12)
            units.append([v / length for v in maxima])
    return units


def pairs_by_definition(student, teacher, pool=2, lengths_of=None):
    """``lengths_of``: a student whose lengths are used as constants."""
    total = 0.0
    for b in range(len(student)):
        ours = nodes(student[b], pool, None if lengths_of is None else lengths_of[b])
        theirs = nodes(teacher[b], pool)
        gaps = [dot(t, v) - dot(s, u) for s, t in zip(ours, theirs) for u, v in zip(ours, theirs)]
        total += sum(g * g for g in gaps) / len(ours) ** 2
    return total / len(student)


def forms(*pool):
    return [lambda s, t, f=f: f(s, t, *pool) for f in (pairwise_affinity, pairs_by_definition)]


POOLS = st.sampled_from([1, 2, 3, "half"])


@examples(st.integers(1, 3), st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 7)] * 2), POOLS)
def test_affinity_is_its_definition_on_any_grid(batch, widths, grid, pool):
    check(*forms(pool), *maps(batch, widths, grid), abs=1e-14)


def test_half_of_an_odd_grid_leaves_nine_nodes():
    student, teacher = map(np.abs, maps(1, (2, 2), (65, 65)))
    assert len(nodes(student[0], "half")) == 9
    check(*forms("half"), student, teacher)


@pytest.mark.parametrize("grid", [(3, 3), (5, 6)], ids=str)  # fewer nodes than channels, and more
def test_gradient_passes_the_norm_in_the_fixed_windows(grid):
    check(*forms(), *maps(grid=grid), leaves=[0])  # 2 is the default


def test_gradient_does_not_pass_it_in_half_the_map():
    student, teacher = maps(grid=(4, 5))
    f = torch.tensor(student, requires_grad=True)
    pairwise_affinity(f, torch.tensor(teacher), "half").backward()
    through, constant = (
        numeric_gradient(lambda s: pairs_by_definition(s, teacher, "half", lengths_of=fixed), student) for fixed in (None, student)
    )
    np.testing.assert_allclose(f.grad.numpy(), constant, atol=1e-8)
    assert abs(through - constant).max() > 1e-2  # so the line above tells the two apart


def test_only_angles_between_nodes_matter():
    teacher = maps(widths=(4, 4), grid=(3, 5))[0]
    rng = np.random.default_rng(1)
    isometry = np.linalg.qr(rng.standard_normal((6, 4)))[0]  # into more channels, angles kept
    gain = rng.uniform(0.5, 2, (2, 1, 3, 5))
    student = np.einsum("sa,bahw->bshw", isometry, gain * teacher)
    assert pairwise_affinity(torch.tensor(student), torch.tensor(teacher), 1).item() < 1e-14
    assert pairwise_affinity(-torch.tensor(student).abs(), torch.tensor(teacher), 1).item() > 1e-2


@pytest.mark.parametrize(
    "variant, pixel, reduction, pair, pool, holistic",
    [("paper", 1, "pixel_mean", 10, 2, 0.001), ("official", 10, "batch_sum", 0.5, "half", 0.1)],
)
def test_terms_and_their_weights(variant, pixel, reduction, pair, pool, holistic, info, context):
    step, (method, modules) = context(), built(info, "skd", variant)
    critic = copy.deepcopy(modules["skd"].discriminator)
    student, teacher = step.student.detach(), step.teacher.detach()
    losses = {name: value.item() for name, value in method.loss(step).items()}
    expected = {
        "skd/pixel": pixel * pixelwise_kl(student.logits, teacher.logits, reduction=reduction).item(),
        "skd/pair": pair * pairs_by_definition(student.feature.numpy(), teacher.feature.numpy(), pool),
        "skd/holistic": -holistic * critic(student.logits).mean().item(),
    }
    assert losses == pytest.approx(expected, rel=1e-8)


def test_the_originals_discriminator_descends_its_penalised_loss_with_decayed_rate(info, context):
    step, (method, modules) = context(), built(info, "skd", "official")
    critic = modules["skd"].discriminator
    ours = copy.deepcopy(critic).requires_grad_(True)
    real, fake = step.teacher.logits.detach(), step.student.logits.detach()
    loss = -ours(real).mean() + ours(fake).mean()
    loss = loss + 10 * gradient_penalty(ours, real, fake, torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(0.1 * loss, list(ours.parameters()), allow_unused=True)
    found = method.learn(step)
    assert found["skd/discriminator"].item() == pytest.approx(0.1 * loss.item(), rel=1e-9)
    largest = max(gradient.abs().max().item() for gradient in gradients if gradient is not None)
    assert found["skd/discriminator_gradient"].item() == pytest.approx(largest, rel=1e-9)
    assert all(map(torch.equal, ours.parameters(), critic.parameters()))  # not yet
    method.after_step(step)
    rate = 4e-4 * (1 - 3 / 10) ** 0.9
    for old, new, gradient in zip(ours.parameters(), critic.parameters(), gradients):
        if gradient is not None:
            expected = old - rate * (gradient + 5e-4 * old)
            torch.testing.assert_close(new, expected, rtol=1e-9, atol=1e-13)
    assert not any(p.requires_grad for p in critic.parameters()) and step.student.feature.grad is None
