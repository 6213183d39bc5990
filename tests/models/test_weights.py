"""Files of weights: found, read safely, taken out of what wraps them, refused with the reason, and named by content."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from segkd.models import create_model
from segkd.models.weights import content_hash, file_record, fingerprint, read_state
from segkd.registry import UserError


@pytest.fixture(scope="module")
def state():
    return make().state_dict()


def make():
    torch.manual_seed(1)
    return create_model("fcn", "resnet18", classes=3, width=0.125)


def optimiser():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    found = torch.optim.AdamW([weight])
    weight.sum().backward()
    found.step()
    return found.state_dict()


def under(state, *prefixes):
    return {prefix + key: value for prefix in prefixes for key, value in state.items()}


WRITTEN = {  # as training scripts file a state
    "bare": lambda s: s,
    "with a number": lambda s: {**s, "epoch": 3},
    "DataParallel": lambda s: {"state_dict": under(s, "module."), "best": torch.tensor(0.5)},
    "compiled": lambda s: under(s, "module._orig_mod."),
    "Lightning": lambda s: {"state_dict": under(s, "model."), "optimizer_states": [optimiser()], "hyper_parameters": {"lr": 0.1}},
    "with optimiser": lambda s: {"model": s, "optimizer": optimiser(), "rng": {"cpu": torch.get_rng_state()}},
    "distiller": lambda s: under(s, "student."),
    "one EMA copy": lambda s: {"ema": s, "decay": 0.99},
    "average": lambda s: AveragedModel(make()).state_dict(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_state_in_what_scripts_write(how, state, tmp_path):
    torch.save(WRITTEN[how](state), tmp_path / "a.pth")
    assert content_hash(read_state(tmp_path / "a.pth")) == content_hash(state)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_content_tells_the_format(name, save, state, tmp_path):
    save(state, tmp_path / name)
    assert content_hash(read_state(tmp_path / name)) == content_hash(state)


@pytest.mark.parametrize("content, words", [
    (lambda s: [1, 2], "no state dict"), (lambda s: {}, "no state dict"), (lambda s: {"state": 1}, "no state dict"),
    (lambda s: {"state_dict": s, "state_dict_ema": s}, r"several state dicts \(state_dict, state_dict_ema\)"),
])  # fmt: skip
def test_what_is_no_state_dict_is_said(content, words, state, tmp_path):
    torch.save(content(state), tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"a.pth': holds {words}"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html><title>sign in", "is text, not weights .*<!DOCTYPE"), (b"version https://git-lfs", "is text, not weights"),
    (b"", "cannot be read"), (b"\x80\x02\x00\xff", "not a pickle of tensors|cannot be read"),
])  # fmt: skip
def test_broken_files_are_refused(content, words, tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_state(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_cut_short_is_refused(save, state, tmp_path):
    save(state, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:-1000])
    with pytest.raises(UserError, match="a.pth': cannot be read"):
        read_state(tmp_path / "a.pth")


class Code:
    """Pickled, this is an order to make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_never_run(tmp_path):
    torch.save({"state_dict": Code(tmp_path / "owned")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="bad.pth': is not a pickle of tensors alone, and nothing else in it is run"):
        read_state(tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "owned").exists(), "the file of this test must be a dangerous one"


def test_files_are_also_found_under_the_weights_folder(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "r18.pt")
    with pytest.raises(UserError, match="no file at"):
        read_state("r18.pt")
    monkeypatch.setenv("SEGKD_WEIGHTS", str(tmp_path))
    assert read_state("r18.pt").keys() == state.keys()


def test_fingerprint_is_of_the_layout_and_content_of_the_values(state, tmp_path):
    turned = dict(reversed(state.items()))
    other = {key: value + 1 for key, value in state.items()}
    assert fingerprint(state) == fingerprint(turned) == fingerprint(other) and len(fingerprint(state)) == 16
    assert content_hash(state) == content_hash(turned) != content_hash(other)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    renamed = {key.replace("layer4", "layer5"): value for key, value in state.items()}
    reshaped = {key: value[None] for key, value in state.items()}
    assert len({fingerprint(s) for s in (state, half, renamed, reshaped)}) == 4
    assert content_hash({"x": torch.ones(2, 3).T}) == content_hash({"x": torch.ones(3, 2)})
    save_file(state, tmp_path / "a.safetensors")
    found = file_record(str(tmp_path / "a.safetensors"))
    assert found == {"file": "a.safetensors", "layout": fingerprint(state), "content": content_hash(state)}
