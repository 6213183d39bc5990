"""SKD's critic losses, gradient penalty and discriminator, against NumPy written from the definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from segkd.losses.skd import Discriminator, generator_loss, gradient_penalty, hinge_loss, wasserstein_loss
from tests.losses.harness import examples


@examples(st.lists(st.tuples(*[st.floats(-3, 3)] * 2), min_size=1, max_size=5))
def test_critic_losses_are_their_definitions(scores):
    real, fake = zip(*scores)
    hinge = np.mean([max(0, 1 - r) for r in real]) + np.mean([max(0, 1 + f) for f in fake])
    given = torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    assert hinge_loss(*given).item() == pytest.approx(hinge, abs=1e-12)
    assert wasserstein_loss(*given).item() == pytest.approx(np.mean(fake) - np.mean(real), abs=1e-12)
    assert generator_loss(given[1]).item() == pytest.approx(-np.mean(fake), abs=1e-12)


class Quadratic(nn.Module):
    """Score |x|^2 / 2: its gradient is x, which it keeps."""

    def forward(self, scores):
        self.seen = scores.detach()
        return scores.square().flatten(1).sum(1) / 2


def maps(batch=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 2, 5, generator=g, dtype=torch.float64) for _ in range(2))


def test_penalty_of_a_linear_critic_and_its_gradient():
    """Score w . x: its gradient by the input is w, wherever it is taken."""
    weight = torch.linspace(-1, 2, 30, dtype=torch.float64).reshape(3, 2, 5).requires_grad_()
    penalty = lambda w: gradient_penalty(lambda scores: (w * scores).flatten(1).sum(1), *maps())
    value, norm = penalty(weight), math.sqrt(sum(w * w for w in np.linspace(-1, 2, 30)))
    assert value.item() == pytest.approx((norm - 1) ** 2, rel=1e-10)
    value.backward()
    torch.testing.assert_close(weight.grad, 2 * (norm - 1) * weight.detach() / norm)
    assert penalty(weight / norm).item() < 1e-28


def test_penalty_is_taken_between_real_and_fake_at_one_point_per_image():
    (real, fake), critic = maps(64), Quadratic()
    value = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(3))
    share = ((critic.seen - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(share, share[:, :1].expand_as(share), rtol=0, atol=1e-6)
    share = share[:, 0]
    assert 0 <= share.min() < 0.15 and 0.85 < share.max() <= 1 and abs(share.mean() - 0.5) < 0.15
    lengths = [math.sqrt((x * x).sum()) for x in critic.seen.numpy()]
    assert value.item() == pytest.approx(sum((n - 1) ** 2 for n in lengths) / 64, rel=1e-10)
    again = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(3))
    other = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(4))
    assert value == again and value != other


def convolution(x, layer, stride, pad):
    """Cross-correlation of (C, h, w) by a loop over the output's positions."""
    weight, bias = (t.detach().numpy() for t in (layer.weight, layer.bias))
    x, size = np.pad(x, ((0, 0), (pad, pad), (pad, pad))), weight.shape[-1]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:])
    out = np.zeros((len(weight), rows, columns))
    for y, c in np.ndindex(rows, columns):
        window = x[:, y * stride : y * stride + size, c * stride : c * stride + size]
        out[:, y, c] = bias + (weight * window).sum((1, 2, 3))
    return out


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def attended(x, attention):
    """x_i + gamma sum_j softmax_j(q_i . k_j) v_j over the positions of one image."""
    q, k, v = (convolution(x, layer, 1, 0).reshape(layer.out_channels, -1) for layer in convolutions(attention))
    power = np.exp(q.T @ k)
    return x + attention.gamma.item() * (v @ (power / power.sum(1, keepdims=True)).T).reshape(x.shape)


def score_by_definition(critic, x):
    """Score of one map (C, h, w) in evaluation mode, from the normed weights."""
    mean, var, gain, bias = (
        t.detach().numpy()[:, None, None]
        for t in (critic.norm.running_mean, critic.norm.running_var, critic.norm.weight, critic.norm.bias)
    )
    x = gain * (x - mean) / np.sqrt(var + critic.norm.eps) + bias
    for i, stage in enumerate(critic.stages):
        x = convolution(x, convolutions(stage)[0], 2, 1)
        x = np.where(x > 0, x, 0.1 * x)
        if i >= 2:
            x = attended(x, critic.attentions[i - 2])
    return convolution(x, critic.last, 1, 0).mean()


def small_critic(seed=0):
    torch.manual_seed(seed)
    critic = Discriminator(3, widths=(4, 4, 8, 16)).double()
    with torch.no_grad():  # leave the initial values, so that every parameter and statistic counts
        for value in (critic.norm.running_mean, critic.norm.running_var, critic.norm.weight, critic.norm.bias):
            value.uniform_(0.5, 2)
        for attention in critic.attentions:
            attention.gamma.fill_(0.7)
    return critic.eval()


def test_score_is_its_definition_and_the_mean_of_the_map_that_is_left():
    critic = small_critic()
    x = torch.randn(2, 3, 64, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sizes = []
    critic.last.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[-2:])))
    scores = critic(x)
    assert sizes == [(1, 2)]
    for score, image in zip(scores, x.numpy()):
        assert score.item() == pytest.approx(score_by_definition(critic, image), rel=1e-8)


def test_attention_starts_as_the_identity_and_learns_its_gain():
    critic = Discriminator(3, widths=(4, 4, 8, 16)).double()
    for attention, width in zip(critic.attentions, (8, 16)):
        x = torch.randn(2, width, 3, 5, dtype=torch.float64)
        assert attention.gamma.shape == (1,) and attention.gamma.item() == 0 and torch.equal(attention(x), x)
        attention(x).square().sum().backward()
        assert attention.gamma.grad.abs() > 0


def test_number_of_parameters():
    widths = (64, 128, 256, 512)
    convs = sum(16 * i * o + o for i, o in zip((19, *widths), widths))
    attentions = sum(2 * (c * c // 8 + c // 8) + c * c + c + 1 for c in widths[2:])
    count = sum(p.numel() for p in Discriminator(19).parameters() if p.requires_grad)
    assert count == 2 * 19 + convs + attentions + 16 * 512 + 1 == 3_191_721


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (45, 45), (64, 128)], ids=str)
def test_one_score_per_image_on_any_grid_with_gradient_to_the_input(grid):
    critic = small_critic()  # in eval mode, where images do not mix
    x = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    scores = critic(x)
    assert scores.shape == (2,) and torch.isfinite(scores).all()
    (gradient,) = torch.autograd.grad(scores[0], x)
    assert torch.isfinite(gradient).all() and gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_critic_trains_on_the_penalty_of_a_small_grid():
    critic = small_critic().train()
    real, fake = (x.repeat(1, 1, 4, 2) for x in maps(2))
    loss = wasserstein_loss(critic(real), critic(fake)) + 10 * gradient_penalty(critic, real, fake)
    loss.backward()
    gradients = [p.grad for p in critic.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(g.abs().sum() > 0 for g in gradients) > len(gradients) / 2


def test_spectral_norm_follows_the_weight_by_one_iteration_at_each_training_pass():
    critic = Discriminator(3, widths=(8, 8, 8, 8))
    conv = convolutions(critic.stages[0])[0]

    def norm():
        return np.linalg.svd(conv.weight.detach().numpy().reshape(8, -1), compute_uv=False)[0]

    with torch.no_grad():
        conv.parametrizations.weight.original.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    x, seen = torch.randn(2, 3, 16, 16), []
    critic.eval()(x)
    assert abs(norm() - 1) > 0.05  # not iterated: still that of the first weight
    for _ in range(25):
        critic.train()(x)
        critic.eval()
        seen.append(norm())
    assert abs(seen[0] - 1) > abs(seen[-1] - 1) and seen[-1] == pytest.approx(1, abs=0.02)
