"""Runs that start from files: a teacher of zero steps, the record of what a run started from, ids that stay."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkd.config import RunConfig, Schedule, from_dict, to_dict
from segkd.models.weights import content_hash, file_record, fingerprint
from segkd.registry import UserError
from segkd.runs import find, load_run, run
from segkd.train.trainee import build_network
from tests.train.harness import DATA, NETWORK

SHORT = Schedule(steps=2, batch_size=2, lr=0.02, validations=1)


@pytest.fixture
def given(tmp_path):
    """A network's file and the teacher of zero steps that is it."""
    model = build_network(RunConfig(DATA, NETWORK, seed=5), 11)
    torch.nn.init.constant_(model.head.classifier.bias, 0.1)
    path = tmp_path / "teacher.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path, teacher(path)


def teacher(path):
    network = dataclasses.replace(NETWORK, checkpoint=str(path), checkpoint_hash=content_hash(load_file(path)))
    return RunConfig(DATA, network, dataclasses.replace(SHORT, steps=0))


def test_a_teacher_from_a_file_is_a_run_of_no_steps_with_its_own_score(given):
    path, config = given
    student = run(RunConfig(DATA, NETWORK, SHORT, method="kd", teacher=config), "cpu")
    found, state = find(config), load_file(path)
    assert found.done and 0 <= found.result["miou"] <= 1
    about = {"file": "teacher.safetensors", "layout": fingerprint(state), "content": content_hash(state)}
    assert found.result["origin"] == {"checkpoint": about}
    saved = {**about, "run": found.id, "file": "model.safetensors"}
    assert student.result["origin"] == {"teacher": saved}
    path.unlink()
    loaded = load_run(found.id).load_model().state_dict()  # a finished run needs no other file
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())
    assert run(config, "cpu").done


def test_another_file_is_another_run_and_the_same_elsewhere_is_not(given, tmp_path):
    path, config = given
    shutil.copy(path, tmp_path / "copy.safetensors")
    assert teacher(tmp_path / "copy.safetensors").id == config.id
    state = load_file(path)
    save_file({**state, "head.classifier.bias": state["head.classifier.bias"] + 1}, path)
    assert teacher(path).id != config.id
    with pytest.raises(UserError, match="its content is now"):
        run(config, "cpu")
    assert not find(config).path.exists()


def test_ids_of_runs_without_files_stay(given):
    assert RunConfig().id == "scenes-deeplabv3_resnet18-baseline-s0-" + RunConfig().id[-8:]
    values = to_dict(RunConfig(teacher=RunConfig()))
    assert from_dict(values) == RunConfig(teacher=RunConfig())
    assert to_dict(given[1])["network"]["checkpoint"] and from_dict(to_dict(given[1])) == given[1]


@pytest.mark.parametrize("changes, words", [
    ({"checkpoint_hash": ""}, "give the config checkpoint_hash="), ({"weights": "imagenet"}, "weights and a checkpoint"),
    ({"checkpoint": None}, "without a checkpoint"), ({"name": "fcn/resnet18"}, "for fcn/resnet18-w.* lacks head.block.0.0.weight"),
])  # fmt: skip
def test_checkpoints_that_are_not_meant_are_refused(given, changes, words):
    network = dataclasses.replace(given[1].network, **changes)
    with pytest.raises(UserError, match=words):
        run(dataclasses.replace(given[1], network=network), "cpu")


def test_the_record_names_the_encoders_weights(given, tmp_path, monkeypatch):
    state = {k.removeprefix("encoder."): v for k, v in load_file(given[0]).items() if k.startswith("encoder.")}
    save_file(state, tmp_path / "encoder.safetensors")
    monkeypatch.setenv("SEGKD_WEIGHTS", str(tmp_path))
    network = dataclasses.replace(NETWORK, weights="encoder.safetensors")
    found = run(RunConfig(DATA, network, dataclasses.replace(SHORT, steps=0)), "cpu")
    assert found.result["origin"] == {"weights": file_record("encoder.safetensors")}
    assert json.loads((found.path / "result.json").read_text())["origin"]["weights"]["file"] == "encoder.safetensors"
    (tmp_path / "encoder.safetensors").unlink()
    assert found.load_model().encoder.state_dict().keys() == state.keys()
