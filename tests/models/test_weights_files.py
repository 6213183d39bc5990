"""Files of weights: what is refused, what is said of it, fingerprints, and the file of the project when it is there."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkd.models import create_model, weights
from segkd.models.encoders import ENCODERS
from segkd.models.naming import encoder_state
from segkd.models.weights import content_hash, describe, fingerprint
from segkd.registry import UserError

NAME = "mobilenet_v2.safetensors"
PLACES = [Path(os.environ.get("SEGKD_WEIGHTS") or "weights"), Path(__file__).parents[3] / "shared" / "weights"]
FILE = next((place / NAME for place in PLACES if (place / NAME).is_file()), None)


@pytest.fixture
def state():
    torch.manual_seed(1)
    return ENCODERS["resnet18"].build(0.125, 8).state_dict()


def narrow(source, encoder="resnet18", **options):
    return create_model("fcn", encoder, str(source), classes=3, width=0.125, **options)


class Code:
    """Pickled, this is an order to make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_never_run(tmp_path):
    torch.save({"state_dict": Code(tmp_path / "owned")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="bad.pth': is not a pickle of tensors alone, and nothing else in it is run"):
        narrow(tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "owned").exists(), "the file of this test must be a dangerous one"


def test_a_file_cut_short_is_refused(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pth"):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UserError, match=f"{path.name}': cannot be read"):
            narrow(path)


def test_every_misfit_is_in_one_error_and_nothing_is_loaded(state, tmp_path):
    bad = {key: value for key, value in state.items() if not key.startswith("layer4.1.conv")} | {"extra": torch.zeros(1)}
    bad["bn1.weight"] = torch.zeros(7)
    save_file(bad, tmp_path / "bad.safetensors")
    torch.manual_seed(2)
    encoder = ENCODERS["resnet18"].build(0.125, 8)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(UserError) as error:
        weights.load_encoder_weights(encoder, "resnet18", str(tmp_path / "bad.safetensors"), 0.125)
    for words in ("lacks layer4.1.conv1.weight, layer4.1.conv2.weight (2)", "unexpected extra (1)",
                  "another shape for bn1.weight (7,) where (16,) is needed (1)", "no network of list_models()"):  # fmt: skip
        assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("encoder, width, fits", [
    ("mobilenet_v2", 1.0, "the weights fit mobilenet_v2, encoder of deeplabv3/mobilenet_v2"),
    ("resnet18", 0.25, "the weights fit resnet18 at width 0.25, encoder of"), ("resnet50", 0.125, "fit resnet50 at width 0.125"),
])  # fmt: skip
def test_a_refusal_says_what_the_weights_do_fit(encoder, width, fits, tmp_path):
    save_file(ENCODERS[encoder].build(width, 8).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=fits):
        narrow(tmp_path / "a.safetensors")


def test_fingerprint_is_of_the_layout_and_content_of_the_values(state, tmp_path):
    turned = dict(reversed(state.items()))
    other = {key: value + 1 for key, value in state.items()}
    assert fingerprint(state) == fingerprint(turned) == fingerprint(other) and len(fingerprint(state)) == 16
    assert content_hash(state) == content_hash(turned) != content_hash(other)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    renamed = {key.replace("layer4", "layer5"): value for key, value in state.items()}
    reshaped = {key: value[None] for key, value in state.items()}
    assert len({fingerprint(s) for s in (state, half, renamed, reshaped)}) == 4
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "b.pth")
    assert content_hash({"x": torch.ones(2, 3).T}) == content_hash({"x": torch.ones(3, 2)})
    found = [describe(str(tmp_path / name)) for name in ("a.safetensors", "b.pth")]
    assert found[0] == {"file": "a.safetensors", "layout": fingerprint(state), "content": content_hash(state)}
    assert found[1] == found[0] | {"file": "b.pth"}


@pytest.mark.skipif(FILE is None, reason="the ImageNet weights of MobileNetV2 are not beside the repository")
def test_the_projects_weights_fill_every_key_and_leave_the_classifier_alone():
    state = load_file(FILE)
    model = create_model("deeplabv3", "mobilenet_v2", str(FILE))
    found = encoder_state(state, "mobilenet_v2", None, "")
    own = model.encoder.state_dict()
    assert set(own) <= set(found.state) and all(torch.equal(own[k], found.state[k].to(own[k].dtype)) for k in own)
    left = {key.split(".")[0] + "." + key.split(".")[1] for key in set(found.state) - set(own)}
    assert left == {"features.18", "classifier.1"}
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
