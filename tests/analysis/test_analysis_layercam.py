"""LayerCAM per input: the split is exact, the maps are LayerCAM's, shares sum to one, the network stays as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segkd.analysis import layercam as lc
from segkd.analysis.features import network_input, one
from segkd.data.store import Meta, Packed
from segkd.models import create_model
from segkd.prediction import resize_scores
from segkd.registry import UserError


def noise(labels, generator=None):
    codes = torch.randn(256, generator=generator)
    return (codes[labels] + 0.01 * torch.randn(labels.shape, generator=generator))[:, None]


def packed(count=2, size=(32, 40)):
    rng = np.random.default_rng(0)
    labels = np.zeros((count, *size), np.uint8)
    labels[:, 8:20, 8:30], labels[:, :2] = 1, 255
    meta = Meta("made", "test", size, tuple(map(str, range(count))), ("road", "car", "pole"), ((0, 0, 0),) * 3, "0")
    return Packed(rng.integers(0, 256, (count, *size, 3)).astype(np.uint8), labels, meta, None)


def network(encoder="resnet18", width=0.125, in_channels=4):
    torch.manual_seed(0)
    return create_model("fcn", encoder, in_channels=in_channels, classes=3, width=width).eval()


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.parametrize("bias", [False, True])
def test_split_convolution_equals_the_whole(bias):
    torch.manual_seed(0)
    conv, x = (nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=bias), torch.randn(2, 4, 17, 12))
    torch.testing.assert_close(lc.SplitConv(conv)(x), conv(x), rtol=0, atol=1e-5)


def test_split_parts_see_only_their_input():
    split, x = lc.SplitConv(nn.Conv2d(4, 8, 3, bias=True)), torch.randn(1, 4, 9, 9)
    other = torch.cat([x[:, :3], torch.randn(1, 1, 9, 9)], 1)
    assert (
        torch.equal(split.image(x[:, :3]), split.image(other[:, :3])) and split.image.bias is split.label.bias is None
    )
    assert not torch.allclose(split(x), split(other))


def test_a_network_without_label_channel_is_refused():
    with pytest.raises(UserError, match="3 input channels"):
        lc.InputLayerCAM(network(in_channels=3))


@pytest.mark.parametrize("encoder, width", [("resnet18", 0.125), ("mobilenet_v2", 0.25)])
def test_network_with_split_convolution_gives_the_same_scores(encoder, width):
    model, x = network(encoder, width), torch.rand(1, 4, 32, 40)
    split = lc.InputLayerCAM(model).cam.model
    with torch.no_grad():
        torch.testing.assert_close(split(x), resize_scores(model(x).logits, (32, 40)), rtol=0, atol=1e-5)


def direct_maps(model, x, target, mask):
    """LayerCAM from the formula, without hooks: one gradient, two linear parts of the first convolution."""
    seen = []
    conv = model.encoder.first_conv
    handle = conv.register_forward_hook(lambda m, i, o: seen.extend([i[0], o]))
    score = (resize_scores(model(x).logits, tuple(x.shape[-2:]))[0, target] * mask).sum()
    handle.remove()
    inputs, output = seen
    gradient = torch.autograd.grad(score, output)[0].clamp(min=0)
    zero = torch.zeros_like(inputs)
    image_only = torch.cat([inputs[:, :3], zero[:, 3:]], 1)
    halves = (image_only, inputs - image_only)
    parts = [nn.functional.conv2d(v, conv.weight, None, conv.stride, conv.padding) for v in halves]
    return [(gradient * part).sum(1)[0].clamp(min=0).detach() for part in parts]


def test_maps_are_layercam_before_and_after_scaling(model):
    from pytorch_grad_cam.utils.image import scale_cam_image

    data = packed()
    x, mask = (network_input(*one(data.images[0], data.labels[0]), noise), torch.from_numpy(data.labels[0] == 1))
    cam = lc.InputLayerCAM(model)
    ours, expected = cam(x, 1, mask), direct_maps(model, x, 1, mask)
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.max()))
    # grad-cam's own answer is the mean of the two maps, each scaled to 0..1: the scale that shares need is gone there
    score = lambda out: (out[1] * mask).sum()
    mean = np.mean([scale_cam_image(m[None].numpy(), (40, 32))[0] for m in expected], axis=0)
    np.testing.assert_allclose(cam.cam(x, targets=[score])[0], scale_cam_image(mean[None])[0], atol=1e-3)


def test_shares_sum_to_one_and_maps_have_image_size(model):
    data = packed()
    found = lc.layercam(model, data.images[0], data.labels[0], noise, 1)
    assert found.image_share + found.label_share == pytest.approx(1) and 0 <= found.image_share <= 1
    assert found.image_map.shape == found.label_map.shape == found.label_input.shape == (32, 40)
    assert found.image_map.min() >= 0 and found.label_map.min() >= 0
    drawn = noise(torch.from_numpy(data.labels[:1]).long(), torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(found.label_input, drawn[0, 0])


def test_a_network_that_ignores_an_input_gives_it_no_share():
    data = packed()
    for channels, share in ((slice(3, 4), "label_share"), (slice(0, 3), "image_share")):
        net = network()
        with torch.no_grad():
            net.encoder.first_conv.weight[:, channels] = 0
        found = lc.layercam(net, data.images[0], data.labels[0], noise, 1)
        assert getattr(found, share) == 0 and found.image_share + found.label_share == 1


def test_the_network_is_left_as_it_was(model):
    data = packed()
    model.train().requires_grad_(False)
    state, x = ({k: v.clone() for k, v in model.state_dict().items()}, torch.rand(2, 4, 32, 40))
    names, first = [n for n, _ in model.named_modules()], model.encoder.first_conv
    lc.layercam(model, data.images[0], data.labels[0], noise, 1)
    lc.input_ablation(model, data, noise)
    assert [n for n, _ in model.named_modules()] == names and model.encoder.first_conv is first
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules()) and not any(m._forward_hooks for m in model.modules())
    model.eval()
    assert torch.equal(model(x).logits, model(x).logits)


def test_a_class_that_is_not_there_is_refused(model):
    data = packed()
    with pytest.raises(UserError, match="class 2 is not in this label"):
        lc.layercam(model, data.images[0], data.labels[0], noise, 2)


class Copycat(nn.Module):
    """Scores class c where the label channel is c: the shortcut of a clean label in its purest form."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return SimpleNamespace(logits=-(x[:, 3:] - torch.arange(3.0)[None, :, None, None]).abs() + 0 * self.weight)


def test_ablation_unmasks_a_network_that_copies_the_label():
    clean = lambda labels, generator=None: torch.where(labels == 255, 0, labels)[:, None].float()
    frame = lc.input_ablation(Copycat(), packed(), clean).set_index("input")
    assert frame.loc["image and label", "miou"] == 1 and frame.loc["label only", "drop"] == 0
    road = (packed().labels == 0).sum() / (packed().labels != 255).sum()
    assert frame.loc["image only", "miou"] == pytest.approx(road / 2)  # all road: IoU of road, and 0 for car


def test_figures_name_teachers_and_shares(model):
    data = packed()
    found = lc.layercam(model, data.images[0], data.labels[0], noise, 1)
    figure = lc.layercam_figure({"noised": found, "clean": found}, "car")
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 8 and f"from the image: {found.image_share:.0%}" in titles
    assert figure.axes[2].images[0].get_clim() == figure.axes[3].images[0].get_clim()


def test_shares_are_those_of_each_network_and_class_on_the_images_that_show_it(model):
    data, other = packed(3), lambda labels, generator=None: 3 * noise(labels, generator)  # noqa: E731
    data.labels[1] = 0
    frame = lc.shares_by_class({"noised": (model, noise), "louder": (model, other)}, data, [1, 0, 2], limit=2)
    expected = [("car", 0), ("car", 2), ("road", 0), ("road", 1)]  # no image shows a pole
    assert list(zip(frame["method"], frame["class"], frame["index"])) == [(name, *shown) for name in ("noised", "louder") for shown in expected]
    np.testing.assert_allclose(frame["image_share"] + frame["label_share"], 1)
    for _, line in frame[frame["method"] == "louder"].iterrows():
        alone = lc.layercam(model, data.images[line["index"]], data.labels[line["index"]], other, data.classes.index(line["class"]))
        assert line["image_share"] == pytest.approx(alone.image_share)
    assert lc.shares_by_class({}, data, [1]).empty
