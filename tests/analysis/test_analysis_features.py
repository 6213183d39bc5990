"""Pixel features: a balanced sample that all networks share, its embedding and its silhouette."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segkd.analysis import features
from segkd.data.augment import to_batch
from segkd.data.store import Meta, Packed
from segkd.prediction import Prediction, labels_to_grid
from segkd.registry import UserError


class Net(nn.Module):
    """Pixels at stride 4 as feature, so that a sampled feature can be traced to its pixel."""

    def __init__(self, channels=3, gives_feature=True):
        super().__init__()
        self.norm, self.head, self.gives_feature = (nn.BatchNorm2d(channels), nn.Conv2d(channels, 3, 1), gives_feature)

    def forward(self, x):
        feature = x[:, :, ::4, ::4]
        self.norm(feature)  # its running statistics would move in training mode
        return Prediction(self.head(feature), feature=feature if self.gives_feature else None)


def packed(count=5, size=(16, 24), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 255], (count, *size), p=[0.5, 0.4, 0.1]).astype(np.uint8)
    labels[1, 4, 8] = 2  # one grid point only
    images = rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)
    meta = Meta("made", "test", size, tuple(map(str, range(count))), ("a", "b", "c"), ((0, 0, 0),) * 3, "0")
    return Packed(images, labels, meta, None)


@settings(max_examples=25, deadline=None)
@given(per_class=st.integers(1, 60), seed=st.integers(0, 5), height=st.integers(8, 20))
def test_sample_is_balanced_and_never_void(per_class, seed, height):
    labels = (
        np.random.default_rng(seed).choice([0, 1, 2, 255], (3, height, 16), p=[0.6, 0.3, 0.02, 0.08]).astype(np.uint8)
    )
    small = labels_to_grid(torch.from_numpy(labels).long(), (4, 5)).numpy()
    rows = features.sample_positions(labels, [(4, 5)] * 3, 3, per_class)
    for c in range(3):
        assert (rows[:, 0] == c).sum() == min(per_class, (small == c).sum())
    assert (small[rows[:, 1], rows[:, 2], rows[:, 3]] == rows[:, 0]).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(rows, features.sample_positions(labels, [(4, 5)] * 3, 3, per_class))


def test_pixel_features_come_from_their_pixels_and_leave_the_model_alone():
    data, model = packed(), Net().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    values, labels = features.pixel_features(model, data, per_class=20)
    assert np.bincount(labels).tolist() == [20, 20, 1]
    rows = features.sample_positions(data.labels, [(4, 6)] * 5, 3, 20)
    expected = data.images[rows[:, 1], rows[:, 2] * 4, rows[:, 3] * 4] / 255
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert model.training and model.norm.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_network_without_feature_is_refused():
    with pytest.raises(UserError, match="feature"):
        features.pixel_features(Net(gives_feature=False), packed())


def test_network_input_draws_the_noise_from_the_seed():
    data = packed()
    noise = lambda y, generator=None: torch.randn(y[:, None].shape, generator=generator)
    batch = to_batch(*data.take(range(5))[:2])
    draw = lambda seed: features.network_input(*batch, noise, seed)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert draw(0).shape == (5, 4, 16, 24) and draw(0)[:, :3].max() <= 1


def clusters(distance, per_class=20):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), per_class)
    return rng.normal(size=(len(labels), 60)) + distance * np.eye(3, 60)[labels], labels


def test_silhouette_follows_separation_and_a_hand_value():
    low, high = (features.silhouette(*clusters(d)) for d in (0, 40))
    assert abs(low) < 0.1 and high > 0.7
    # two pairs on a line: a = 1, b = (9 + 10) / 2 or (10 + 11) / 2 for inner and outer points
    points, labels = np.array([[0.0], [1], [10], [11]]), np.array([0, 0, 1, 1])
    assert features.silhouette(points, labels) == pytest.approx(np.mean([1 - 1 / 10.5, 1 - 1 / 9.5]))
    assert np.isnan(features.silhouette(points, np.zeros(4)))


def test_class_silhouettes_average_to_the_whole():
    values, labels = clusters(5)
    parts = features.class_silhouettes(values, labels, ["a", "b", "c"])
    assert np.mean(list(parts.values())) == pytest.approx(features.silhouette(values, labels), abs=1e-6)


def test_embedding_is_deterministic_and_keeps_clusters_apart():
    values, labels = clusters(40)
    xy = features.embed(values)
    assert xy.shape == (60, 2) and np.isfinite(xy).all()
    np.testing.assert_array_equal(xy, features.embed(values))
    assert features.silhouette(xy, labels) > 0.5
    with pytest.raises(UserError, match="too few"):
        features.embed(values[:3])


def test_tsne_figure_gives_the_silhouette_of_each_panel():
    xy, labels = np.random.default_rng(0).normal(size=(30, 2)), np.repeat([0, 2], 15)
    both = features.plane_frame({"baseline": (xy, labels), "HWD": (xy * 2, labels)}, "abc")
    figure = features.tsne_figure(both, "abc", np.eye(3) * 255, {"baseline": 0.125, "HWD": 0.25})
    assert ["0.125" in figure.axes[0].get_title(), "0.250" in figure.axes[1].get_title()] == [True, True]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "c"]
    assert "plane" in features.tsne_figure(both, "abc", np.eye(3)).axes[0].get_title()


def test_of_many_classes_the_most_frequent_are_drawn():
    labels = np.repeat(np.arange(40, dtype=np.uint8), np.arange(1, 41)).reshape(1, 20, 41)
    rows = features.sample_positions(labels, [(20, 41)], 40, per_class=5)
    assert sorted(set(rows[:, 0])) == list(range(20, 40)) and (np.bincount(rows[:, 0])[20:] == 5).all()


def test_thinned_sample_stays_balanced():
    values, labels = np.arange(12.0)[:, None], np.repeat([0, 1, 4], [4, 6, 2])
    fewer, ids = features.thinned((values, labels), 2)
    assert fewer[:, 0].tolist() == [0, 2, 4, 6, 8, 10] and ids.tolist() == [0, 0, 1, 1, 1, 4]


def test_perplexity_check_gives_the_silhouette_of_each_plane():
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 15)
    sample = rng.normal(0, 1, (45, 6)) + 4 * np.eye(6)[labels]
    frame = features.perplexity_check({"CWD": (sample, labels)}, (5, 10, 50))
    assert frame["perplexity"].tolist() == [5, 10]  # 50 is too many for 45 points
    plane = features.embed(sample, 10)
    assert frame["silhouette"].iloc[1] == pytest.approx(silhouette_score(plane, labels), abs=1e-6)
    assert features.perplexity_figure(frame).axes[0].get_legend().get_texts()[0].get_text() == "CWD"
    table = features.plane_frame({"CWD": (plane, labels)}, ["a", "b", "c"])
    assert table["class"].tolist() == [x for x in "abc" for _ in range(15)] and len(table) == 45
