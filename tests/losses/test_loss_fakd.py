"""FAKD against the theorem's pairwise sums by loops, sampled noise, and statistics against NumPy on all data seen."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses import fakd
from segkd.losses.cwd import channelwise_kl
from segkd.losses.fakd import ClassStatistics, augmented_channelwise, augmented_pixelwise, ramp
from segkd.losses.kd import pixelwise_kl
from tests.losses.harness import built, check, examples, softmax

BATCH, CLASSES, WIDTH, GRID = 2, 3, 4, (2, 3)
COVARIANCES = ["diagonal", "full"]


def case(seed=0, covariance="full", scale=0.4):
    """Student feature, classifier, teacher logits, labels with ignored pixels, and covariances (C, A, A), as arrays."""
    rng = np.random.default_rng(seed)
    root = scale * rng.standard_normal((CLASSES, WIDTH, WIDTH))
    sigma = root @ root.transpose(0, 2, 1)
    if covariance == "diagonal":
        sigma = np.stack([np.diag(np.diag(s)) for s in sigma])
    labels = rng.integers(0, CLASSES, (BATCH, *GRID))
    labels[1, 0, :2] = 255
    feature, weight = rng.standard_normal((BATCH, WIDTH, *GRID)), rng.standard_normal((CLASSES, WIDTH))
    return feature, weight, rng.standard_normal(CLASSES), rng.standard_normal((BATCH, CLASSES, *GRID)), labels, sigma


def statistics(sigma, covariance):
    out = ClassStatistics(CLASSES, WIDTH, covariance)
    values = sigma if covariance == "full" else np.stack([np.diag(s) for s in sigma])
    out.covariance.copy_(torch.tensor(values))
    return out


def bound(loss, arrays, lam, covariance="full", **options):
    """The loss as a function of feature, weight and bias."""
    teacher, labels, known = torch.tensor(arrays[3]), torch.tensor(arrays[4]), statistics(arrays[5], covariance)
    return lambda feature, weight, bias: loss(feature, (weight, bias), teacher, labels, known, lam, **options)


def call(loss, arrays, lam, **options):
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays[:3]]
    return bound(loss, arrays, lam, **options)(*leaves), leaves


def channelwise_by_definition(feature, weight, bias, teacher, labels, sigma, lam, tau, power):
    """-log of the augmented softmax by Jensen: log sum_k exp(a_k - a_i + half the variance of the difference)."""
    total = 0.0
    for b, c in np.ndindex(BATCH, CLASSES):
        points = [feature[b, :, y, x] for y, x in np.ndindex(GRID)]
        noise = [0.0 if y == 255 else lam * weight[c] @ sigma[y] @ weight[c] for y in labels[b].ravel()]
        for i, p in enumerate(softmax(teacher[b, c].ravel() / tau)):
            inner = 0.0
            for k in range(len(points)):
                gap = (weight[c] @ points[k] - weight[c] @ points[i]) / tau
                inner += math.exp(gap + (noise[k] + noise[i]) / (2 * tau**power))
            total += p * math.log(inner)
    return tau**2 * total / (BATCH * CLASSES)


def pixelwise_by_definition(feature, weight, bias, teacher, labels, sigma, lam, covariance_of):
    total = 0.0
    for b, y, x in np.ndindex(BATCH, *GRID):
        for c, p in enumerate(softmax(teacher[b, :, y, x])):
            ignored = labels[b, y, x] == 255
            spread = np.zeros_like(sigma[0]) if ignored else sigma[labels[b, y, x] if covariance_of == "label" else c]
            inner = 0.0
            for k in range(CLASSES):
                w = weight[k] - weight[c]
                inner += math.exp(w @ feature[b, :, y, x] + bias[k] - bias[c] + 0.5 * lam * w @ spread @ w)
            total += p * math.log(inner)
    return total / (BATCH * GRID[0] * GRID[1])


def check_bound(loss, by_definition, arrays, lam, covariance, **options):
    """Value, and gradient for feature, weight and bias."""
    definition = lambda *abc: by_definition(*abc, *arrays[3:], lam, *options.values())
    names = {"tau": "temperature", "power": "var_power", "of": "covariance_of"}
    found = bound(loss, arrays, lam, covariance, **{names[key]: value for key, value in options.items()})
    check(found, definition, *arrays[:3], leaves=[0, 1, 2], atol=2e-7)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("lam, tau, power", [(0.7, 4.0, 2), (1.0, 2.0, 1), (0.0, 4.0, 2)])
def test_channelwise_bound_is_its_definition(covariance, lam, tau, power):
    arrays = case(covariance=covariance)
    check_bound(augmented_channelwise, channelwise_by_definition, arrays, lam, covariance, tau=tau, power=power)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("of", ["label", "teacher_class"])
def test_pixelwise_bound_is_its_definition(covariance, of):
    check_bound(augmented_pixelwise, pixelwise_by_definition, case(1, covariance), 0.7, covariance, of=of)


@pytest.mark.parametrize("of", ["label", "teacher_class"])
def test_the_slow_path_agrees_with_the_product_and_takes_any_variance(of, monkeypatch):
    arrays = case(2)
    fast, leaves = call(augmented_pixelwise, arrays, 1.0, covariance_of=of)
    fast.backward()
    monkeypatch.setitem(fakd.SAFE_EXPONENT, torch.float64, -1.0)
    monkeypatch.setattr(fakd, "CHUNK", 1)
    slow, others = call(augmented_pixelwise, arrays, 1.0, covariance_of=of)
    slow.backward()
    assert slow.item() == pytest.approx(fast.item(), abs=1e-12)
    for one, other in zip(leaves, others):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=1e-10)
    huge, leaves = call(augmented_pixelwise, case(2, scale=60.0), 1.0, covariance_of=of)
    huge.backward()
    assert math.isfinite(huge.item()) and all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("exponent", [59.9, 110.0])
def test_single_precision_keeps_what_underflows_small(exponent):
    """Variances on either side of the limit of the fast path against the same in double precision."""
    feature, weight, bias, teacher, labels, sigma = case(3)
    known = statistics(sigma, "full")
    largest = fakd.gap_variances(torch.tensor(weight), known.covariance).max().item()
    args = torch.tensor(80 * feature), (torch.tensor(weight), torch.tensor(bias)), torch.tensor(teacher)
    lam = 2 * exponent / largest
    fine = augmented_pixelwise(*args, torch.tensor(labels), known, lam)
    single = (args[0].float(), tuple(t.float() for t in args[1]), args[2].float())
    assert augmented_pixelwise(*single, torch.tensor(labels), known, lam).item() == pytest.approx(fine.item(), rel=1e-5)


def test_without_noise_both_are_the_plain_loss_plus_the_teachers_entropy():
    feature, weight, bias, teacher, *_ = arrays = case()
    feature, weight, bias, teacher = map(torch.tensor, (feature, weight, bias, teacher))
    scores = torch.einsum("ca,bahw->bchw", weight, feature) + bias[:, None, None]
    p = (teacher.flatten(2) / 4).softmax(-1)
    entropy = 16 * -(p * p.log()).sum(-1).mean()
    plain = channelwise_kl(scores, teacher) + entropy
    q = teacher.softmax(1)
    pixel = pixelwise_kl(scores, teacher) - (q * q.log()).sum(1).mean()
    nothing = (*arrays[:-1], 0 * arrays[-1])
    for used, lam in [(arrays, 0.0), (nothing, 1.0)]:
        assert call(augmented_channelwise, used, lam)[0].item() == pytest.approx(plain.item(), abs=1e-10)
        for of in ("label", "teacher_class"):
            value = call(augmented_pixelwise, used, lam, covariance_of=of)[0]
            assert value.item() == pytest.approx(pixel.item(), abs=1e-10)


def test_bounds_lie_above_the_sampled_mean_and_that_above_the_plain_loss():
    feature, weight, bias, teacher, labels, sigma = arrays = case(4, scale=0.6)
    rng = np.random.default_rng(0)
    shape = {y: rng.multivariate_normal(np.zeros(WIDTH), sigma[y], (3000, BATCH, *GRID)) for y in range(CLASSES)}
    noise = sum(shape[y] * (labels == y)[None, ..., None] for y in range(CLASSES))
    z = (np.moveaxis(feature, 1, -1) + noise) @ weight.T + bias  # (samples, B, h, w, C)
    p = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    log_s = z - np.log(np.exp(z).sum(-1, keepdims=True))
    pd = -(np.moveaxis(p, 1, -1) * log_s).sum(-1).mean((1, 2, 3))
    flat = teacher.reshape(BATCH, CLASSES, -1) / 4
    p = np.exp(flat) / np.exp(flat).sum(-1, keepdims=True)
    z = np.moveaxis(z, -1, 2).reshape(len(z), BATCH, CLASSES, -1) / 4
    cwd = -16 * (p * (z - np.log(np.exp(z).sum(-1, keepdims=True)))).sum(-1).mean((1, 2))
    for loss, sampled in [(augmented_pixelwise, pd), (augmented_channelwise, cwd)]:
        plain, above = (call(loss, arrays, lam)[0].item() for lam in (0.0, 1.0))
        error = 4 * sampled.std() / math.sqrt(len(sampled))
        assert plain < sampled.mean() - error < sampled.mean() + error < above


@examples(st.integers(0, 999), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from(COVARIANCES))
def test_statistics_are_the_pooled_ones(seed, sizes, covariance):
    rng = np.random.default_rng(seed)
    known, seen = ClassStatistics(CLASSES, WIDTH, covariance), {c: [] for c in range(CLASSES)}
    for size in sizes:
        feature = 5 + rng.standard_normal((size, WIDTH, *GRID))
        labels = rng.choice([0, 1, 2, 255], (size, *GRID), p=[0.5, 0.3, 0.1, 0.1])
        known.update(torch.tensor(feature), torch.tensor(labels))
        for b, y, x in np.ndindex(*labels.shape):
            if labels[b, y, x] != 255:
                seen[labels[b, y, x]].append(feature[b, :, y, x])
    for c, points in seen.items():
        assert known.count[c] == len(points)
        mean = np.mean(points, 0) if points else np.zeros(WIDTH)
        full = np.cov(np.array(points).T, bias=True) if len(points) > 1 else np.zeros((WIDTH, WIDTH))
        np.testing.assert_allclose(known.mean[c].numpy(), mean, atol=1e-10)
        spread = full if covariance == "full" else np.diag(full)
        np.testing.assert_allclose(known.covariance[c].numpy(), spread, atol=1e-10)


def test_statistics_survive_a_large_offset_in_single_precision_and_never_see_gradient():
    torch.manual_seed(0)
    feature = (1000 + torch.randn(1, 2, 40, 40)).requires_grad_()
    known = ClassStatistics(1, 2)
    known.update(feature, torch.zeros(1, 40, 40, dtype=torch.int64))
    np.testing.assert_allclose(known.covariance[0].numpy(), feature[0].detach().double().var((1, 2)).numpy(), rtol=2e-3)
    assert not known.covariance.requires_grad and known.count.dtype == torch.int64


def test_the_ramp_rises_as_a_half_cosine():
    values = [ramp(t, 8, 1.5) for t in range(9)]
    assert values[0] == 0 and values[4] == pytest.approx(0.75) and values[8] == 1.5
    assert values == sorted(values)
    np.testing.assert_allclose(values, [1.5 * math.sin(math.pi * t / 16) ** 2 for t in range(9)], atol=1e-12)


@pytest.mark.parametrize("name, weight", [("fakd_pd", 1), ("fakd_cwd", 3)])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_class_updates_first_and_weights_the_bound(name, weight, covariance, info, context):
    step, (method, modules) = context(step=4, total=8), built(info, name, covariance=covariance)
    value = method.loss(step)[name]
    other = ClassStatistics(4, 5, covariance)
    other.update(step.student.feature, step.labels)
    for key, seen in other.state_dict().items():
        assert torch.equal(seen, modules[name].state_dict()[key]), "seen once"
    loss = augmented_pixelwise if name == "fakd_pd" else augmented_channelwise
    expected = loss(step.student.feature, step.student.classifier, step.teacher.logits, step.labels, other, 0.5)
    assert value.item() == pytest.approx(weight * expected.item(), abs=1e-10)
