"""Activation inside and outside of classes, and the effect of noise draws: against plain numpy in float64."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from segkd.analysis import activation, stability
from segkd.data.store import Meta, Packed
from segkd.prediction import Prediction
from segkd.registry import UserError


class Net(nn.Module):
    """The colours less one half at stride 2 as feature; scores are a mixture of all input channels."""

    align_corners = True

    def __init__(self, channels=3, gives_feature=True):
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.gives_feature = nn.Conv2d(channels, 3, 1), gives_feature

    def forward(self, x):
        feature = x[:, :3, ::2, ::2] - 0.5
        return Prediction(3 * self.mix(x[:, :, ::2, ::2]), feature=feature if self.gives_feature else None)


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], (10, 8, 6)).astype(np.uint8)
    images = rng.integers(0, 256, (10, 8, 6, 3)).astype(np.uint8)
    meta = Meta("made", "test", (8, 6), tuple(map(str, range(10))), ("a", "b", "c"), ((0, 0, 0),) * 3, "0")
    return Packed(images, labels, meta, None, None)


def test_inside_over_outside(packed):
    frame = activation.inside_outside(Net(), packed, ["c", "a"]).set_index("class")
    maps = np.abs(packed.images[:, ::2, ::2].astype(float) / 255 - 0.5).mean(-1)
    small = packed.labels[:, ::2, ::2]
    for name, ids in (("a", [0]), ("c", [2]), ("together", [0, 2])):
        inside = np.isin(small, ids)
        outside = ~inside & (small != 255)
        assert frame.loc[name, "pixels"] == inside.sum()
        np.testing.assert_allclose(frame.loc[name, "ratio"], maps[inside].mean() / maps[outside].mean(), rtol=1e-6)


def test_maps_are_relative_to_their_mean(packed):
    found = activation.activation_map(Net(), packed.images[0])
    assert found.shape == (8, 6) and found.mean() == pytest.approx(1, abs=1e-5) and found.min() >= 0
    with pytest.raises(UserError, match="no feature"):
        activation.activation_map(Net(gives_feature=False), packed.images[0])


def test_hardest_takes_a_third():
    ious = pd.Series({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.4, "e": 0.8, "f": 0.7})
    assert activation.hardest(ious) == ["b", "d"] and activation.hardest(ious[:1]) == ["a"]


def kl(p, q):
    return float((p * np.log(p / q)).sum())


def test_pairwise_kl_is_the_mean_over_all_ordered_pairs():
    scores = np.random.default_rng(0).normal(0, 2, (3, 2, 4, 2, 3))
    p = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    found = stability.mean_pairwise_kl(torch.from_numpy(scores)).numpy()
    for b, y, x in np.ndindex(2, 2, 3):
        pairs = [kl(p[i, b, :, y, x], p[j, b, :, y, x]) for i in range(3) for j in range(3)]
        assert found[b, y, x] == pytest.approx(sum(pairs) / 9, rel=1e-10)


def test_sensitivity_is_zero_without_noise_and_positive_with_it(packed):
    still = lambda labels, generator=None: labels[:, None].float() / 255  # noqa: E731
    noisy = lambda labels, generator=None: torch.randn(labels[:, None].shape, generator=generator)  # noqa: E731
    assert stability.noise_sensitivity(Net(4), packed, still) == pytest.approx(0, abs=1e-9)
    assert stability.noise_sensitivity(Net(4), packed, noisy) > 1e-3
    assert stability.noise_sensitivity(Net(4), packed, noisy, seed=1) != stability.noise_sensitivity(Net(4), packed, noisy)


def test_sensitivity_averages_over_images_and_pixels(packed):
    noise = lambda labels, generator=None: torch.randn(labels[:, None].shape, generator=generator)  # noqa: E731
    net, parts = Net(4), []
    for start in (0, 4, 8):
        cut = slice(start, start + 4)
        one = SimpleNamespace(images=packed.images[cut], labels=packed.labels[cut])
        x = [
            torch.cat([torch.from_numpy(one.images.copy()).permute(0, 3, 1, 2).float() / 255,
                       noise(torch.from_numpy(one.labels.copy()).long(), torch.Generator().manual_seed(3 * start + k))], 1)
            for k in range(3)
        ]  # fmt: skip
        parts.append(stability.mean_pairwise_kl(torch.stack([net(v).logits.detach() for v in x])).flatten())
    expected = float(torch.cat(parts).mean())
    assert stability.noise_sensitivity(net, packed, noise) == pytest.approx(expected, rel=1e-9)
