"""Names of other code bases: every key of the encoder filled, and the input that each lineage expects."""

import pytest
import torch

from segkd.models import create_model
from segkd.models.zoo import ENCODERS
from segkd.registry import UserError

FIRST = ("conv1.0.weight", "conv_stem.weight")  # what reads the image
STEM = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3"}
BLOCK = {"conv_pw": "0", "bn1": "1", "conv_dw": "3", "bn2": "4", "conv_pwl": "6", "bn3": "7"}
FIRST_BLOCK = {"conv_dw": "0", "bn1": "1", "conv_pw": "3", "bn2": "4"}
MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red in 0-255


def state_of(encoder, width=0.125):
    """An encoder's random state, with batch norms that are not trivial."""
    torch.manual_seed(5)
    state = ENCODERS.get(encoder).build(width, 8).state_dict()
    for key, value in state.items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    return state


def side_by_side(key):
    """Our name -> conv1, bn1, conv2, bn2, conv3, bn3 as the stem; MobileNetV2: features.N.conv.M without groups."""
    head, _, tail = key.rpartition(".")
    if head.startswith(("conv_stem", "bn1")) and not head.startswith("conv1"):
        return f"features.0.{0 if head == 'conv_stem' else 1}.{tail}"
    if head.startswith("blocks."):
        _, stage, index, layer = head.split(".")
        module = (1, 2, 4, 7, 11, 14, 17)[int(stage)] + int(index)
        return f"features.{module}.conv.{(FIRST_BLOCK if module == 1 else BLOCK)[layer]}.{tail}"
    return key


def family_resnet(state, prefix):
    names = {}
    for key, value in state.items():
        head, _, tail = key.rpartition(".")
        names[f"{prefix}{STEM.get(head, head)}.{tail}"] = value
    return names


def family_mobilenet(state, prefix):
    return {prefix + side_by_side(key): value for key, value in state.items()}


def sequence(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def load(tmp_path, state, encoder, say="", **options):
    torch.save(state, tmp_path / "weights.pth")
    return create_model("fcn", encoder, f"{say}{tmp_path / 'weights.pth'}", classes=3, width=0.125, **options)


FAMILY = [
    ("resnet18", family_resnet, "", ""), ("resnet18", family_resnet, "pretrained.", ""),
    ("resnet18", sequence, "pretrained.", ""), ("resnet18", sequence, "", "bgr255:"),
    ("resnet50", family_resnet, "module.pretrained.", ""), ("resnet101", family_resnet, "", ""),
    ("mobilenet_v2", family_mobilenet, "", ""), ("mobilenet_v2", family_mobilenet, "pretrained.net.", ""),
]  # fmt: skip


@pytest.mark.parametrize("encoder, rename, prefix, say", FAMILY)
def test_the_cirkd_family_fills_every_key_and_sees_bgr(encoder, rename, prefix, say, tmp_path):
    """The same features as the encoder itself on BGR images in 0-255 minus the mean, while ours stay RGB in [0, 1]."""
    state = state_of(encoder)
    model = load(tmp_path, rename(state, prefix), encoder, say).eval()
    loaded = model.encoder.state_dict()
    assert set(loaded) == set(state)
    for key, value in state.items():
        assert torch.equal(loaded[key], value.flip(1) if key in FIRST else value), key
    reference = ENCODERS.get(encoder).build(0.125, 8).eval()
    reference.load_state_dict(state)
    images = torch.rand(2, 3, 48, 64)
    bgr = images.flip(1) * 255 - torch.tensor(MEAN).view(1, 3, 1, 1)
    with torch.no_grad():
        for ours, theirs in zip(model(images).stages, reference(bgr)):
            scale = theirs.abs().max()
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-4, atol=1e-4)


def test_rgb_can_be_said_of_family_names(tmp_path):
    state = state_of("resnet18")
    model = load(tmp_path, family_resnet(state, ""), "resnet18", "rgb:")
    assert torch.equal(model.encoder.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_an_added_channel_keeps_its_size_beside_the_image(tmp_path):
    """LAD: a gain of 1.75 in units of the normalised image is the released code's 100 on images in 0-255."""
    model = load(tmp_path, family_resnet(state_of("resnet18"), ""), "resnet18", in_channels=4)
    assert 1.75 / model.std.flatten()[3].item() == pytest.approx(100, rel=0.01)
    assert create_model("fcn", "resnet18", in_channels=4, width=0.125).std.flatten()[3] == 1


def test_whole_networks_give_their_encoder(tmp_path):
    own = load(tmp_path, family_resnet(state_of("resnet18"), ""), "resnet18")
    again = load(tmp_path, own.state_dict(), "resnet18", aux=False)
    assert torch.equal(again.mean, own.mean) and torch.equal(again.std, own.std)
    assert all(torch.equal(value, own.encoder.state_dict()[key]) for key, value in again.encoder.state_dict().items())
    whole = family_resnet(state_of("resnet18"), "pretrained.")
    heads = {"head.block.4.weight": torch.zeros(3), "auxlayer.block.0.weight": torch.zeros(3)}
    assert torch.equal(load(tmp_path, whole | heads, "resnet18").std, own.std)
    with pytest.raises(UserError, match="unexpected decoder.weight"):
        load(tmp_path, whole | {"decoder.weight": torch.zeros(3)}, "resnet18")
    with pytest.raises(UserError, match="unexpected head.block.4.weight"):
        load(tmp_path, family_resnet(state_of("resnet18"), "") | heads, "resnet18")


def test_weights_that_saw_0_to_255_are_not_taken_for_normalised(tmp_path):
    state = state_of("resnet18")
    state["conv1.1.running_var"] = 500 * state["conv1.0.weight"].square().flatten(1).sum(1)
    with pytest.raises(UserError, match="0-255, not normalised RGB; .*bgr255:FILE"):
        load(tmp_path, state, "resnet18")
    assert load(tmp_path, state, "resnet18", "bgr255:").std[0, 0, 0, 0] == pytest.approx(1 / 255)
    assert load(tmp_path, state, "resnet18", "rgb:").std[0, 0, 0, 0] == pytest.approx(0.229)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_torchvisions_resnets_have_another_stem(encoder, tmp_path):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        names = getattr(models, encoder)(weights=None).state_dict()
    state = {key: torch.empty(()).expand(value.shape) for key, value in names.items()}
    with pytest.raises(UserError, match="7x7 convolution .*torchvision.*64-64-128.*resnet.-imagenet.pth.*timm's resnet50s"):
        load(tmp_path, state, encoder)


def test_torchvision_names_give_torchvisions_network(tmp_path):
    """The same features as torchvision's own MobileNetV2 at stride 32, where the two are the same function."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    reference = models.mobilenet_v2(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "mbv2.pt")
    model = create_model("fcn", "mobilenet_v2", str(tmp_path / "mbv2.pt"), output_stride=32).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(images)[-1], reference.features[:18](images), rtol=1e-4, atol=1e-5)
