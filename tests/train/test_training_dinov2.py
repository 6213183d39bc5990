"""Runs with DINOv2 as student and as teacher of networks on another grid, and runs that keep less in memory."""

import dataclasses

import pytest
import torch

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, from_dict, to_dict
from segkd.losses import TrainingData, list_methods
from segkd.registry import UserError
from segkd.runs import find, run
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network
from tests.train.harness import CPU, NETWORK, batch, weights

pytest.importorskip("peft")
DATA = DataConfig(size=(48, 64), train_limit=4, eval_limit=2)
SCHEDULE = Schedule(steps=2, batch_size=2, lr=0.02, validations=1)
VIT, RESNET = NetworkConfig("dinov2/vits14", 0.125), NETWORK


@pytest.mark.parametrize("student, teacher", [(VIT, RESNET), (RESNET, VIT)], ids=["student", "teacher"])
def test_a_run_across_grids(student, teacher):
    config = RunConfig(DATA, student, SCHEDULE, method="cwd", teacher=RunConfig(DATA, teacher, SCHEDULE))
    found = run(config, "cpu")
    assert found.done and all(row["cwd"] > 0 for row in found.metrics() if row["kind"] == "train")
    start, end = build_network(config, 11).state_dict(), found.load_model().state_dict()
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert any("classifier" in name for name in moved)
    if student is VIT:
        assert {name.split(".")[-3] for name in moved if name.startswith("encoder.")} <= {"lora_A", "lora_B"}
        assert any("lora_B" in name for name in moved)


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize("student, teacher", [(VIT, RESNET), (RESNET, VIT)], ids=["student", "teacher"])
def test_every_method_copes_with_the_other_grid(student, teacher, method):
    if method == "lad":  # its teacher reads the label beside the image
        teacher = dataclasses.replace(teacher, extra_channels=1)
    made = build_network(RunConfig(DATA, teacher), 11)
    given = batch(classes=11)
    config = RunConfig(DATA, student, SCHEDULE, method=method, teacher=RunConfig(DATA, teacher, SCHEDULE))
    try:
        trainee = Trainee(config, 11, made.info, CPU)
    except UserError as error:  # this one compares two auxiliary heads of the teacher, and a linear head has none beside it
        assert (method, teacher.name) == ("rdd", VIT.name) and "auxiliary head" in str(error)
        return
    assert (method, teacher.name) != ("rdd", VIT.name)
    taught = Teacher(made, trainee.method.teacher_kind, 0)
    trainee.prepare(taught, TrainingData(2, lambda step: given))
    trainee.train_step(*given, taught(*given, 0))  # a loss that is not finite raises
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainee.model.encoder.parameters())


@pytest.mark.parametrize("network", [RESNET, NetworkConfig("ocrnet/hrnet_w18_small", 0.125)], ids=["pspnet", "ocrnet"])
def test_gradient_checkpointing_is_the_same_run(network, tmp_path, monkeypatch):
    data = dataclasses.replace(DATA, size=(64, 64))
    plain = RunConfig(data, network, SCHEDULE)
    lean = dataclasses.replace(plain, network=dataclasses.replace(network, grad_checkpointing=True))
    assert plain.id == lean.id and from_dict(to_dict(lean)) == lean
    found = run(plain, "cpu")
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    assert not find(lean).done
    again = run(lean, "cpu")
    assert weights(again) == weights(found) and again.metrics() == found.metrics()
    assert again.load_model().encoder.grad_checkpointing


def test_smp_has_no_gradient_checkpointing():
    pytest.importorskip("segmentation_models_pytorch")
    config = RunConfig(DATA, NetworkConfig("smp.Unet/resnet18", grad_checkpointing=True), SCHEDULE)
    with pytest.raises(UserError, match="network.grad_checkpointing: 'smp.Unet/resnet18' of smp has none"):
        run(config, "cpu")
    assert not find(config).path.exists()
