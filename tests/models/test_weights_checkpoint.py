"""Whole networks from files: recognised, filled to the last key, refused when changed; the CIRKD family's renamed."""

import pytest
import torch
from safetensors.torch import save_file

from segkd.models import create_model
from segkd.models.checkpoints import identify, load_network
from segkd.models.naming import BGR255
from segkd.models.weights import content_hash
from segkd.registry import UserError

STEM = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3"}
HEADS = {
    "deeplabv3": {
        "head.branches.0.": "head.aspp.b0.", "head.branches.1.": "head.aspp.b1.block.",
        "head.branches.2.": "head.aspp.b2.block.", "head.branches.3.": "head.aspp.b3.block.",
        "head.pooled.0": "head.aspp.b4.gap.1", "head.pooled.1": "head.aspp.b4.gap.2", "head.project.": "head.aspp.project.",
        "head.classifier.": "head.block.4.", "aux_head.": "auxlayer.block.",
    },
    "pspnet": {
        "head.pooled.": "head.psp.conv1.", "head.levels.0.": "head.psp.conv2.", "head.levels.1.": "head.psp.conv3.",
        "head.levels.2.": "head.psp.conv4.", "aux_head.": "auxlayer.block.",
    },
}  # fmt: skip


def network(name="pspnet/resnet18", seed=0, **options):
    torch.manual_seed(seed)
    options = {"classes": 5, "width": 0.125} | options
    return create_model(*name.split("/"), **options).eval()


def family(model, arch):
    """The model's state as CIRKD's code would name it: no normalisation in it, the first convolution for BGR."""
    found = {}
    for key, value in model.state_dict().items():
        if key.startswith("encoder."):
            head, _, tail = key.removeprefix("encoder.").rpartition(".")
            value = value.flip(1) if head == "conv1.0" else value
            found[f"pretrained.{STEM.get(head, head)}.{tail}"] = value
        elif key not in ("mean", "std"):
            old = next((start for start in HEADS[arch] if key.startswith(start)), "")
            found[HEADS[arch].get(old, "") + key.removeprefix(old)] = value
    return found


def saved(tmp_path, state):
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


@pytest.mark.parametrize("name, options", [
    ("deeplabv3/resnet18", {"width": 0.25}), ("pspnet/resnet50", {}), ("fcn/resnet101", {}),
    ("deeplabv3/mobilenet_v2", {"width": 0.5, "in_channels": 4}),
])  # fmt: skip
def test_a_checkpoint_is_recognised_and_loaded_whole(name, options, tmp_path):
    model, other = network(name, **options), network(name, seed=1, **options)
    path = saved(tmp_path, model.state_dict())
    found = identify(path)
    wanted = (name, options.get("width", 0.125), 5, options.get("in_channels", 3), content_hash(model.state_dict()))
    assert (found.name, found.width, found.classes, found.in_channels, found.content) == wanted
    load_network(other, path, found.content)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("arch", ["deeplabv3", "pspnet"])
def test_networks_of_the_cirkd_family_are_renamed(arch, tmp_path):
    model, other = network(f"{arch}/resnet18"), network(f"{arch}/resnet18", seed=1)
    model.normalise_as(BGR255)
    path = saved(tmp_path, family(model, arch))
    found = identify(path)
    assert (found.name, found.classes, found.width) == (f"{arch}/resnet18", 5, 0.125)
    load_network(other, path, found.content)
    images = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(images).logits, model(images).logits, rtol=0, atol=0)
        torch.testing.assert_close(other(images).aux_logits, model(images).aux_logits, rtol=0, atol=0)


def test_misfits_and_changes_are_refused(tmp_path):
    model = network()
    state = model.state_dict()
    path, content = saved(tmp_path, state), content_hash(state)
    with pytest.raises(UserError, match=r"has another shape for .*the file holds pspnet/resnet18 at width 0.125: 5 classes"):
        load_network(network(classes=7), path, content)
    with pytest.raises(UserError, match=f"its content is {content}; give the config checkpoint_hash='{content}'"):
        load_network(network(), path, "")
    with pytest.raises(UserError, match="no file at"):
        load_network(network(), str(tmp_path / "elsewhere"), content)
    saved(tmp_path, {**state, "head.classifier.bias": state["head.classifier.bias"] + 1})
    with pytest.raises(UserError, match=f"its content is now .*, not {content}"):
        load_network(network(), path, content)
    saved(tmp_path, {key: value for key, value in state.items() if not key.startswith("aux_head.")})
    with pytest.raises(UserError, match="beside pspnet/resnet18 it lacks aux_head.0.weight"):
        identify(path)
    saved(tmp_path, {"features.weight": torch.zeros(3)})
    with pytest.raises(UserError, match="no encoder and head in a layout that is known"):
        identify(path)
