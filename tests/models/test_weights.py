"""Encoder weights: torchvision's names, refusals that name the key, the file of the project when it is there."""

from pathlib import Path

import pytest
import torch

from segkd.models import create_model
from segkd.models.encoders import ENCODERS
from segkd.registry import UserError

FILE = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2.safetensors"


@pytest.fixture
def resnet_state():
    """A ResNet-18 state at width 0.125 with a classifier that no encoder uses."""
    torch.manual_seed(1)
    state = ENCODERS["resnet18"].build(0.125, 8).state_dict()
    return {**state, "fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}


def narrow(source, **options):
    torch.manual_seed(2)
    return create_model("fcn", "resnet18", str(source), classes=3, width=0.125, **options)


def test_a_state_dict_file_fills_every_key(resnet_state, tmp_path):
    torch.save({"state_dict": resnet_state}, tmp_path / "r18.pt")
    loaded = narrow(tmp_path / "r18.pt", in_channels=4).encoder.state_dict()
    first = loaded.pop("conv1.0.weight")
    assert torch.equal(first[:, :3], resnet_state["conv1.0.weight"])
    assert all(torch.equal(value, resnet_state[key]) for key, value in loaded.items())


def test_files_are_also_found_under_the_weights_folder(resnet_state, tmp_path, monkeypatch):
    torch.save(resnet_state, tmp_path / "r18.pt")
    with pytest.raises(UserError, match="no file at"):
        narrow("r18.pt")
    monkeypatch.setenv("SEGKD_WEIGHTS", str(tmp_path))
    assert torch.equal(narrow("r18.pt").encoder.state_dict()["conv1.3.weight"], resnet_state["conv1.3.weight"])


def test_missing_surplus_and_misshapen_keys_are_named(resnet_state, tmp_path):
    path = tmp_path / "r18.pt"
    torch.save({k: v for k, v in resnet_state.items() if k != "layer1.0.conv1.weight"}, path)
    with pytest.raises(UserError, match="lacks layer1.0.conv1.weight"):
        narrow(path)
    torch.save({**resnet_state, "layer9.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="unexpected layer9.weight"):
        narrow(path)
    torch.save({**resnet_state, "bn1.weight": torch.zeros(7)}, path)
    with pytest.raises(UserError, match="another shape for bn1.weight"):
        narrow(path)


def test_broken_files_are_refused(tmp_path):
    (tmp_path / "junk.pt").write_bytes(b"no weights here")
    (tmp_path / "junk.safetensors").write_bytes(b"nor here")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("junk.pt", "junk.safetensors", "list.pt"):
        with pytest.raises(UserError, match=name):
            narrow(tmp_path / name)


def test_imagenet_refusals():
    with pytest.raises(UserError, match="timm has none for resnet18"):
        create_model("deeplabv3", "resnet18", "imagenet")
    with pytest.raises(UserError, match="width 1 only"):
        create_model("deeplabv3", "mobilenet_v2", "imagenet", width=0.5)


@pytest.mark.parametrize("encoder", ["resnet50", "mobilenet_v2"])
def test_imagenet_takes_timms_network_of_the_same_layout(encoder, monkeypatch):
    import timm

    build, torch_state = timm.create_model, {}

    def without_download(name, pretrained):
        net = build(name, pretrained=False)
        torch_state.update(net.state_dict())
        return net

    monkeypatch.setattr(timm, "create_model", without_download)
    loaded = create_model("fcn", encoder, "imagenet").encoder.state_dict()
    assert all(torch.equal(value, torch_state[key]) for key, value in loaded.items())


def test_a_failed_download_says_what_to_do(monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(UserError, match="could not fetch 'mobilenetv2_100'"):
        create_model("fcn", "mobilenet_v2", "imagenet")


def test_torchvision_names_give_torchvisions_network(tmp_path):
    """The same features as torchvision's own network at stride 32, where the two are the same function."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    reference = models.mobilenet_v2(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "mbv2.pt")
    model = create_model("fcn", "mobilenet_v2", str(tmp_path / "mbv2.pt"), output_stride=32).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = reference.features[:18](images)
        torch.testing.assert_close(model.encoder(images)[-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not FILE.is_file(), reason="the ImageNet weights of MobileNetV2 are not beside the repository")
def test_the_projects_imagenet_weights_load():
    from safetensors.torch import load_file

    state = load_file(FILE)
    model = create_model("deeplabv3", "mobilenet_v2", str(FILE), in_channels=4)
    encoder = model.encoder.state_dict()
    assert torch.equal(encoder["conv_stem.weight"][:, :3], state["features.0.0.weight"].float())
    assert torch.equal(encoder["blocks.6.0.bn3.running_var"], state["features.17.conv.3.running_var"].float())
    assert all(value.dtype == torch.float32 for value in encoder.values() if value.is_floating_point())
    assert model.eval()(torch.rand(1, 4, 64, 64)).logits.isfinite().all()
