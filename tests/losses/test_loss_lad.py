"""LAD's label channel, its two paths in one batch, and the teacher's loss against its sum by loops."""


import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses import create_method, task_loss
from segkd.losses.cwd import channelwise_kl
from segkd.losses.lad import LabelNoise, dual_path_consistency, fixed_codes
from segkd.prediction import NetworkInfo, Prediction
from tests.losses.harness import check, divergence, examples, normal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(seed=0, shape=(3, 20, 30), classes=4):
    labels = torch.randint(0, classes, shape, generator=seeded(seed))
    labels[:, 0] = 255
    return labels


@examples(classes=st.integers(1, 6), void=st.sampled_from(["zero", "class"]), seed=st.integers(0, 99))
def test_one_code_for_each_image_and_class(classes, void, seed):
    labels = labels_of(seed, (2, 6, 5), classes)
    channel = LabelNoise(classes, alpha=0.0, gain=2.0, void=void)(labels, seeded(seed))
    codes = torch.randn(2, classes + (void == "class"), generator=seeded(seed))
    for b, y, x in np.ndindex(*labels.shape):
        label = labels[b, y, x].item()
        code = (codes[b, classes].item() if void == "class" else 0.0) if label == 255 else codes[b, label].item()
        assert channel[b, 0, y, x].item() == pytest.approx(2 * code, abs=1e-6)


def test_pixel_noise_has_its_size_and_is_independent_of_the_codes():
    labels = torch.zeros(2, 100, 100, dtype=torch.int64)
    channel = LabelNoise(3, alpha=0.1, gain=5.0)(labels, seeded())[:, 0]
    assert channel.shape == labels.shape and channel.dtype == torch.float32
    for image in channel:
        assert image.std().item() == pytest.approx(0.5, rel=0.05)
    residue = channel - channel.mean((1, 2), keepdim=True)
    assert abs((residue[0] * residue[1]).mean().item()) < 0.02
    assert not torch.isclose(channel[0].mean(), channel[1].mean())


def test_codes_are_standard_normal_over_many_images():
    labels = torch.arange(4).repeat(3000, 1)[:, None]
    channel = LabelNoise(4, alpha=0.0)(labels, seeded())[:, 0, 0]
    np.testing.assert_allclose(channel.mean(0), np.zeros(4), atol=0.08)
    np.testing.assert_allclose(np.cov(channel.T), np.eye(4), atol=0.1)


def test_without_class_noise_indices_spread_over_the_range_of_an_image():
    labels = torch.tensor([[[0, 1, 2, 3, 4, 255]]])
    channel = LabelNoise(5, alpha=0.0, class_noise=False)(labels)
    assert channel.flatten().tolist() == [-2, -1, 0, 1, 2, 0]
    assert LabelNoise(1, class_noise=False)(torch.zeros(1, 2, 2, dtype=torch.int64)).shape == (1, 1, 2, 2)


def test_fixed_codes_are_those_of_the_code_on_voc():
    assert fixed_codes(22) == pytest.approx([(k - 11) / 10 for k in range(22)])
    labels = torch.tensor([[[0, 11, 20, 255]]])
    channel = LabelNoise(21, alpha=0.0, gain=100.0, void="class", codes=fixed_codes(22))(labels)
    assert channel.flatten().tolist() == pytest.approx([-110, 0, 90, 100], abs=1e-4)


def built(variant="paper", **hyper):
    method = create_method("lad", variant, **hyper)
    method.build(NetworkInfo("student", 4, 3, 5, (5,), True))
    return method.teacher_kind


def test_inputs_join_image_and_label():
    images, labels, lad = torch.rand(3, 3, 20, 30), labels_of(), built()
    single, double = lad.teacher_input(images, labels, seeded()), lad.training_input(images, labels, seeded())
    assert single.shape == (3, 4, 20, 30) and double.shape == (6, 4, 20, 30) and lad.extra_channels == 1
    assert torch.equal(single[:, :3], images) and torch.equal(double[:, :3], torch.cat([images, images]))
    first, second = double[:, 3].chunk(2)
    assert torch.equal(single, lad.teacher_input(images, labels, seeded())), "draws follow the generator alone"
    assert torch.equal(first, single[:, 3]) and not torch.allclose(first, second, atol=0.1)
    assert lad.training_input(images.bfloat16(), labels, seeded()).dtype == torch.bfloat16


def test_the_codes_teacher_is_fed_with_fixed_codes_when_it_teaches():
    labels, lad = labels_of(), built("official")
    images = torch.zeros(3, 3, 20, 30)
    taught = lad.teacher_input(images, labels, seeded())[:, 3]
    codes = torch.tensor(fixed_codes(5))[torch.where(labels == 255, 4, labels)]
    assert (taught / 1.75 - codes).std().item() == pytest.approx(0.02, rel=0.1)
    trained = lad.training_input(images, labels, seeded())[:3, 3] / 1.75
    spread = torch.stack([trained[0][labels[0] == c].std() for c in range(4)])
    np.testing.assert_allclose(spread.numpy(), 0.03 * np.ones(4), rtol=0.25)


def consistency_by_definition(first, second, tau=4.0):
    total = sum(divergence(second[at].ravel() / tau, first[at].ravel() / tau) for at in np.ndindex(first.shape[:2]))
    return tau**2 * total / (first.shape[0] * first.shape[1])


def test_consistency_is_its_definition_with_gradient_into_both():
    check(dual_path_consistency, consistency_by_definition, *normal((2, 3, 2, 3), (2, 3, 2, 3), scale=2), leaves=[0, 1])


def test_symmetric_consistency_is_the_sum_with_each_target_detached():
    pair = normal((1, 2, 2, 3), (1, 2, 2, 3))
    for own, other in (pair, pair[::-1]):  # the other is a constant where it is the target
        back = consistency_by_definition(other, own, 2.0)
        loss = lambda a, b: dual_path_consistency(a, b, 2.0, symmetric=True) - back  # noqa: B023
        check(loss, lambda a, b: consistency_by_definition(a, b, 2.0), own, other, leaves=[0])


@pytest.mark.parametrize("variant, weight", [("paper", 1), ("official", 5)])
def test_teacher_loss_adds_both_paths_and_their_consistency(variant, weight):
    torch.manual_seed(0)
    logits, aux = torch.randn(2, 6, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    labels, lad = labels_of(), built(variant)
    losses = lad.teacher_loss(Prediction(logits, aux), labels, 0.3)
    paths = [task_loss(Prediction(logits[i : i + 3], aux[i : i + 3]), labels, 0.3) for i in (0, 3)]
    for name in ("task", "task_aux"):
        assert losses[name].item() == pytest.approx(sum(path[name].item() for path in paths), abs=1e-10)
    gap = channelwise_kl(logits[:3], logits[3:]) + (channelwise_kl(logits[3:], logits[:3]) if weight == 5 else 0)
    assert losses["lad/consistency"].item() == pytest.approx(weight * gap.item(), abs=1e-10)
    sum(losses.values()).backward()
    assert set(losses) == {"task", "task_aux", "lad/consistency"}


def test_alone_it_asks_for_no_teacher_and_adds_nothing(context, info):
    method = create_method("lad+cwd")
    method.build(info.student, info.teacher)
    assert set(method.loss(context())) == {"cwd"} and method.needs_teacher
    assert not create_method("lad").needs_teacher
