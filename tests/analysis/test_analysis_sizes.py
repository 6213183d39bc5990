"""Images of several sizes: every measure of a split is that of its pixels, counted image by image in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from segkd.analysis import activation, boundary, channels, difficulty, features, layercam, stability, thin, variants
from segkd.analysis.figures import pictures
from segkd.data.store import Meta, Packed
from segkd.metrics import scores
from segkd.prediction import Prediction
from segkd.study.lab import page_tables, views

SIZES = np.array([(8, 6), (5, 9), (12, 7), (6, 8)])
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Net(nn.Module):
    """Scores of all input channels, at label size; every second pixel's colours less one half as feature."""

    align_corners = True

    def __init__(self, seed=0, channels=3):
        super().__init__()
        torch.manual_seed(seed)
        self.main, self.aux = nn.Conv2d(channels, 3, 1).double(), nn.Conv2d(channels, 3, 1).double()

    def forward(self, x):
        return Prediction(6 * self.main(x), 6 * self.aux(x), feature=x[:, :3, ::2, ::2] - 0.5)


@pytest.fixture(scope="module")
def packed():
    rng, pixels = np.random.default_rng(0), int(SIZES.prod(1).sum())
    meta = Meta("made", "test", None, tuple("abcd"), ("road", "car", "pole"), PALETTE, "0")
    labels = rng.choice([0, 1, 2, 255], pixels, p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8)
    return Packed(rng.integers(0, 256, (pixels, 3)).astype(np.uint8), labels, meta, None, SIZES)


def probabilities(layer, image):
    """Softmax (H, W, 3) of one image (H, W, channels) in [0, 1]."""
    logits = 6 * (image @ layer.weight.detach().numpy()[:, :, 0, 0].T + layer.bias.detach().numpy())
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def seen(packed):
    return [(image / 255.0, label) for image, label in zip(packed.images, packed.labels)]


def pooled(packed, of):
    """``of(image, label)`` of each image's labelled pixels, one behind the other."""
    return np.concatenate([np.asarray(of(image, label))[label != 255] for image, label in seen(packed)])


def test_difficulty_and_distance(packed):
    net, edges = Net(), (1, 2)
    p, q = (lambda image, layer=layer: probabilities(layer, image) for layer in (net.main, net.aux))
    weight = pooled(packed, lambda image, _: np.exp(-(p(image) * np.log(p(image) / q(image))).sum(-1)))
    wrong = pooled(packed, lambda image, label: p(image).argmax(-1) != label)
    found = difficulty.weights_by_outcome(net, packed)
    assert found["right"] == pytest.approx(weight[~wrong].mean(), rel=1e-9) and found["wrong"] == pytest.approx(weight[wrong].mean(), rel=1e-9)
    bins = pooled(packed, lambda _, label: boundary.distance_bins(torch.from_numpy(label.copy()).long()[None], edges)[0])
    frame = difficulty.near_boundaries(net, packed, boundary.split_bins(packed, edges), edges=edges)
    for _, line in frame.iterrows():
        here = bins == boundary.bin_names(edges).index(line["distance"])
        assert line["pixels"] == here.sum() and line["wrong"] == pytest.approx(wrong[here].mean())
        assert line["weight"] == pytest.approx(weight[here].mean(), rel=1e-9)
    assert frame["pixels"].sum() == len(wrong)


def test_activation_and_channels(packed):
    frame = activation.inside_outside(Net(), packed, ["pole"]).set_index("class")
    maps = np.concatenate([np.abs(image[::2, ::2] - 0.5).mean(-1).ravel() for image, _ in seen(packed)])
    small = np.concatenate([label[tuple(np.ix_(*(np.arange(-(-n // 2)) * n // -(-n // 2) for n in label.shape)))].ravel() for _, label in seen(packed)])
    assert frame.loc["pole", "ratio"] == pytest.approx(maps[small == 2].mean() / maps[(small != 2) & (small != 255)].mean(), rel=1e-9)

    pair, on, off = (Net(1), Net(2)), [], []
    for image, label in seen(packed):
        logits = [6 * (image @ net.main.weight.detach().numpy()[1, :, 0, 0]) / 4 for net in pair]  # the bias falls out
        one, other = (np.exp(x) / np.exp(x).sum() for x in logits)
        on += list(((one - other) ** 2)[label == 1])
        off += list(((one - other) ** 2)[(label != 1) & (label != 255)])
    ratios = channels.divergence_ratios(*pair, packed).set_index("class")
    assert ratios.loc["car", "ratio"] == pytest.approx(np.mean(on) / np.mean(off), rel=1e-9) and ratios.loc["car", "images"] == 4


def test_features_come_from_their_pixels(packed):
    values, classes = features.pixel_features(Net(), packed, per_class=9)
    assert np.bincount(classes).tolist() == [9, 9, 9]
    grids = [(-(-h // 2), -(-w // 2)) for h, w in SIZES]
    rows = features.sample_positions(packed.labels, grids, 3, 9)
    assert len(np.unique(rows, axis=0)) == 27 and set(rows[:, 1]) == {0, 1, 2, 3}
    for value, (c, image, y, x) in zip(values, rows):
        (height, width), grid = SIZES[image], grids[image]
        assert packed.labels[image][y * height // grid[0], x * width // grid[1]] == c
        np.testing.assert_allclose(value, packed.images[image][2 * y, 2 * x] / 255 - 0.5, atol=1e-12)


def test_label_noise(packed):
    net = Net(channels=4)
    noise = lambda labels, generator=None: torch.randn(labels[:, None].shape, generator=generator, dtype=torch.float64)  # noqa: E731
    total, pixels, counts = 0.0, 0, np.zeros((2, 3, 3), int)
    for index, (image, label) in enumerate(seen(packed)):
        draws = [noise(torch.zeros(1, *label.shape), torch.Generator().manual_seed(3 * index + k))[0, 0].numpy() for k in range(3)]
        p = [probabilities(net.main, np.dstack([image, draw])) for draw in draws]
        total += sum((a * np.log(a / b)).sum() for a in p for b in p) / 9
        pixels += label.size
        draw = noise(torch.zeros(1, *label.shape), torch.Generator().manual_seed(index))[0, 0].numpy()
        for count, blind in zip(counts, (image, np.broadcast_to(image.mean((0, 1)), image.shape))):
            guess = probabilities(net.main, np.dstack([blind, draw])).argmax(-1)
            np.add.at(count, (label[label != 255], guess[label != 255]), 1)
    assert stability.noise_sensitivity(net, packed, noise) == pytest.approx(total / pixels, rel=1e-5)
    found = layercam.input_ablation(net, packed, noise).set_index("input")["miou"]
    assert [found["image and label"], found["label only"]] == pytest.approx([scores(count)["miou"] for count in counts])


def test_boundary_iou_and_maps(packed):
    net, total = Net(), 0
    for (guess, labels), (image, label) in zip(boundary.predicted_maps(net, packed), seen(packed)):
        np.testing.assert_array_equal(guess[0], probabilities(net.main, image).argmax(-1))
        total = total + boundary.boundary_counts(guess, labels, 3, boundary.band_width(label.shape)).numpy()
    np.testing.assert_allclose(boundary.boundary_iou(net, packed), total[0] / (total[1] + total[2] - total[0]))


def test_pixels_widths_and_choices(packed):
    every = np.concatenate([label.ravel() for label in packed.labels])
    counts = np.bincount(every, minlength=256)[:3]
    np.testing.assert_allclose(packed.class_frequencies(), counts / counts.sum())
    frame = thin.widths_frame(packed).set_index("class")
    np.testing.assert_allclose([frame.loc[name, "share"] for name in packed.classes], 100 * counts / counts.sum())
    assert thin.thinnest(packed.labels, 3, 3) == [packed.classes.index(name) for name in frame.index]
    assert page_tables.explained_classes(packed, 2)[:2] == [2, int(counts.argmax())]
    assert views.image_with(packed, 1) == int(np.argmax([(label == 1).sum() for label in packed.labels]))
    assert {index for index, _ in thin.chosen_frames(packed.labels, [2], 4)} == {0, 1, 2, 3}


def test_a_batch_of_several_sizes_is_cut_to_the_smallest(packed):
    images, labels = variants.Witnesses(Net(), None, None, packed, batch_size=3).batch(1)  # images 3, 0, 1
    assert labels.shape == (3, 5, 6) and images.shape == (3, 3, 5, 6)
    for place, index in enumerate((3, 0, 1)):
        np.testing.assert_array_equal(labels[place], packed.labels[index][:5, :6])


def test_sheets(packed):
    """Every picture keeps its shape, and the legend counts all of them."""
    maps = {"CWD": [np.zeros(size, np.uint8) for size in SIZES]}
    sheets = [
        (pictures.dataset_sheet(packed, range(4)), 2), (pictures.prediction_sheet(packed.images, packed.labels, maps, PALETTE, packed.classes), 3),
    ]  # fmt: skip
    for figure, columns in sheets:
        drawn = [axis.images[0].get_array().shape[:2] for axis in figure.axes if axis.images]
        assert drawn == [tuple(size) for size in SIZES for _ in range(columns)]
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["road", "car", "pole", "void"]
    windows = [(0, 0, 2, 3)] * 2
    zoom = pictures.zoom_sheet({"CWD": [maps["CWD"][i] for i in (2, 0)]}, packed.images[[2, 0]], packed.labels[[2, 0]], windows, PALETTE, packed.classes)
    assert [axis.images[0].get_array().shape[:2] for axis in zoom.axes[::3]] == [(12, 7), (2, 3), (8, 6), (2, 3)]
    rows = [{"a": np.full(size, float(k))} for k, size in enumerate(SIZES)]
    assert {axis.images[0].get_clim() for axis in pictures.map_sheet(rows, shared=["a"]).axes} == {(0.0, 3.0)}
