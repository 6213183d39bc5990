"""States into encoders and whole networks: every key filled or all refused, with the misfits; the CIRKD family's renamed."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkd.models import create_model
from segkd.models.checkpoints import encoder_state, fill, load_encoder_weights, load_network
from segkd.models.images import BGR255
from segkd.models.weights import content_hash
from segkd.models.zoo import ENCODERS
from segkd.registry import UserError
from tests.models.harness import same, saved, small

NAME = "mobilenet_v2.safetensors"
PLACES = [Path(os.environ.get("SEGKD_WEIGHTS") or "weights"), Path(__file__).parents[3] / "shared" / "weights"]
FILE = next((place / NAME for place in PLACES if (place / NAME).is_file()), None)
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
    return small(name, seed, **options).eval()


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


@pytest.mark.parametrize("name, options", [
    ("deeplabv3/resnet18", {"width": 0.25}), ("fcn/resnet101", {}), ("deeplabv3/mobilenet_v2", {"in_channels": 4}),
    ("stdc/stdc2", {"in_channels": 4}), ("dinov2/vits14", {"in_channels": 4}), ("smp.FPN/resnet18", {"width": 1.0}),
])  # fmt: skip
def test_a_checkpoint_is_loaded_whole(name, options, tmp_path):
    if "smp" in name:
        pytest.importorskip("segmentation_models_pytorch")
    model, other = network(name, **options), network(name, seed=1, **options)
    state = model.state_dict()
    load_network(other, saved(tmp_path, state), content_hash(state))
    assert same(state, other.state_dict())


@pytest.mark.parametrize("arch", HEADS)
def test_networks_of_the_cirkd_family_are_renamed(arch, tmp_path):
    model, other = network(f"{arch}/resnet18"), network(f"{arch}/resnet18", seed=1)
    model.normalise_as(BGR255)
    state = family(model, arch)
    load_network(other, saved(tmp_path, state), content_hash(state))
    images = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        ours, theirs = other(images), model(images)
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.aux_logits, theirs.aux_logits)


def test_a_checkpoint_that_changed_is_refused(tmp_path):
    state = network().state_dict()
    path, content = saved(tmp_path, state), content_hash(state)
    with pytest.raises(UserError, match=f"its content is {content}; give the config checkpoint_hash='{content}'"):
        load_network(network(), path, "")
    with pytest.raises(UserError, match="no file at"):
        load_network(network(), str(tmp_path / "elsewhere"), content)
    saved(tmp_path, {**state, "head.classifier.bias": state["head.classifier.bias"] + 1})
    with pytest.raises(UserError, match=f"its content is now .*, not {content}"):
        load_network(network(), path, content)


def test_every_misfit_is_in_one_error_and_nothing_is_loaded(tmp_path):
    torch.manual_seed(1)
    encoder = ENCODERS.get("resnet18").build(0.125, 8)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    bad = {key: value + 1 for key, value in before.items() if not key.startswith(("layer4.1.conv", "layer3."))}
    save_file(bad | {"extra": torch.zeros(1), "bn1.weight": torch.zeros(7)}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError) as error:
        load_encoder_weights(encoder, "resnet18", str(tmp_path / "bad.safetensors"), 0.125)
    for words in ("lacks layer3.0.conv1.weight, layer3.0.bn1.weight, layer3.0.bn1.bias and 24 more under layer3., layer4. (27)",
                  "unexpected extra (1)", "another shape for bn1.weight (7,) where (16,) is needed (1)"):  # fmt: skip
        assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert same(encoder.state_dict(), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value):
    model = network()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["head.block.0.weight"][3, 1] = value
    with pytest.raises(UserError, match="mine has NaN or infinite values in head.block.0.weight"):
        fill(model, state, "mine")
    assert model.head.block[0].weight.isfinite().all()
    fill(model, {**state, "head.block.0.weight": torch.ones_like(state["head.block.0.weight"]), "fc.weight": state["head.block.0.weight"]}, "mine", ("fc.",))


def test_an_encoders_file_fills_every_key(tmp_path):
    torch.manual_seed(1)
    state = ENCODERS.get("resnet18").build(0.125, 8).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(3, 64)}, tmp_path / "r18.pt")
    loaded = network("fcn/resnet18", encoder_weights=str(tmp_path / "r18.pt"), in_channels=4).encoder.state_dict()
    first = loaded.pop("conv1.0.weight")
    assert torch.equal(first[:, :3], state["conv1.0.weight"])
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.skipif(FILE is None, reason="the ImageNet weights of MobileNetV2 are not beside the repository")
def test_the_projects_weights_fill_every_key_and_leave_the_classifier_alone():
    state = load_file(FILE)
    model = create_model("deeplabv3", "mobilenet_v2", str(FILE), in_channels=4)
    own = model.encoder.state_dict()
    assert torch.equal(own["conv_stem.weight"][:, :3], state["features.0.0.weight"].float())
    assert torch.equal(own["blocks.6.0.bn3.running_var"], state["features.17.conv.3.running_var"].float())
    found = encoder_state(state, model.encoder, "mobilenet_v2", None, "").state
    rest = {key: value for key, value in own.items() if key != "conv_stem.weight"}
    assert all(torch.equal(value, found[key].to(value.dtype)) for key, value in rest.items())
    assert {".".join(key.split(".")[:2]) for key in set(found) - set(own)} == {"features.18", "classifier.1"}
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406, 0])


def test_the_encoder_of_another_network_of_stdc(tmp_path):
    source = network("stdc/stdc1", classes=3)
    path = saved(tmp_path, source.state_dict())
    assert same(network("stdc/stdc1", seed=1, encoder_weights=path).encoder.state_dict(), source.encoder.state_dict())
    with pytest.raises(UserError, match="lacks stages.0.2.first.0.weight"):
        network("stdc/stdc2", encoder_weights=path)
