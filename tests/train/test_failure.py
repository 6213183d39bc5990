"""A step that is not finite: no update, a report, the other runs of the cohort go on, and replay repeats it."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file

import segkd
from segkd.cli import main
from segkd.data.sampler import batch_indices
from segkd.registry import UserError
from segkd.replay import replay
from segkd.runs import find, run, run_cohort, split_of
from segkd.study.execute.executor import execute
from segkd.train import loop, state
from segkd.train.failure import RunFailed
from segkd.train.trainee import NonFiniteStep, Trainee
from tests.train.harness import CPU, PLAIN, batch, scheduled, weights

SHORT = scheduled(PLAIN, steps=5, validations=1)
TEACHER = scheduled(SHORT, steps=1)
GOOD = dataclasses.replace(SHORT, method="cwd", teacher=TEACHER)
# The first update is finite but throws the weights to 1e34, so step 1 is not: a true divergence, not a planted NaN.
BAD = dataclasses.replace(SHORT, method="kd", teacher=TEACHER, hyper={"weight": 1e38})


def snapshot(trainee: Trainee) -> list[torch.Tensor]:
    optimiser = [v for s in trainee.optimiser.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return [p.detach().clone() for p in trainee.model.parameters()] + [v.clone() for v in optimiser]


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    trainee = Trainee(SHORT, 11, None, CPU)
    images, labels = batch()
    trainee.train_step(images, labels, None)  # so that there is momentum to spoil
    before = snapshot(trainee)
    parameter = next(trainee.model.parameters())
    parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1]), math.inf))
    with pytest.raises(NonFiniteStep, match="step 1: gradient is not finite") as caught:
        trainee.train_step(images, labels, None)
    assert caught.value.bad == ["gradient"] and math.isfinite(caught.value.values["loss"])
    assert trainee.step == 1 and all(map(torch.equal, before, snapshot(trainee)))
    name = next(name for name, _ in trainee.model.named_parameters()).rpartition(".")[0]
    assert [layer for layer, norm in trainee.gradient_norms().items() if not math.isfinite(norm)] == [f"network.{name}"]


def test_a_discriminator_that_diverges_stops_the_run_before_any_update(runs, capsys):
    config = dataclasses.replace(GOOD, method="cwd+skd", hyper={"skd": {"discriminator_weight": 1e39}})  # inf in float32
    with pytest.raises(RunFailed, match="before the update of step 0: skd/discriminator, skd/discriminator_gradient not finite"):
        run(config, "cpu")
    report = json.loads((find(config).path / "failure.json").read_text())
    assert report["not_finite"] == ["skd/discriminator", "skd/discriminator_gradient"]
    assert all(math.isfinite(report["terms"][name]) for name in ("loss", "gradient", "cwd", "skd/holistic"))
    layers = report["gradient_norms"]
    assert {layer.split(".")[0] for layer, norm in layers.items() if norm in ("nan", "inf")} == {"method"}
    assert main(["replay", config.id]) == 0
    assert "skd/discriminator    inf (as reported), of a part that trains itself" in capsys.readouterr().out


def test_neither_network_nor_discriminator_move_at_such_a_step(monkeypatch):
    info = segkd.create_model("pspnet", "resnet18", classes=11, width=0.125).info
    trainee = Trainee(dataclasses.replace(GOOD, method="skd"), 11, info, CPU)
    images, labels = batch()
    teacher = trainee.forward(torch.rand(2, 3, 48, 64)).detach()
    row = trainee.train_step(images, labels, teacher)
    assert math.isfinite(row["skd/discriminator"]) and row["skd/discriminator_gradient"] > 0
    critic = trainee.modules["skd"].discriminator
    before = [*snapshot(trainee), *(p.clone() for p in critic.parameters())]
    critic.last.bias.requires_grad_(True).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteStep, match="step 1: skd/discriminator_gradient is not finite"):
        trainee.train_step(images, labels, teacher)
    assert all(map(torch.equal, before, [*snapshot(trainee), *critic.parameters()]))


def test_large_but_finite_gradients_are_finite():
    trainee = Trainee(SHORT, 11, None, CPU)
    parameters = list(trainee.model.parameters())
    for p in parameters:
        p.grad = torch.full_like(p, 1e30)  # their squares are infinite in float32
    assert trainee._finite({"task": torch.tensor(1.0)}) == {"task": 1.0}
    assert trainee.gradient_norms() and all(map(math.isfinite, trainee.gradient_norms().values()))


def test_the_others_of_a_cohort_go_on_and_the_failed_run_stays_open(runs, monkeypatch, tmp_path):
    with pytest.raises(RunFailed, match=f"run {BAD.id} stopped before the update of step 1: .*`segkd replay {BAD.id}`"):
        run_cohort([BAD, GOOD], "cpu")
    assert find(GOOD).done and not find(BAD).done and not state.checkpoints(find(BAD).path)
    together = weights(find(GOOD))
    report = json.loads((find(BAD).path / "failure.json").read_text())
    train = split_of(BAD, "train")
    indices = batch_indices(len(train), 2, 1, BAD.seed).tolist()
    assert report["step"] == 1 and report["batch"]["indices"] == indices
    assert report["batch"]["names"] == [train.names[i] for i in indices]
    assert "kd" in report["not_finite"] and report["terms"]["kd"] in ("nan", "inf") and 0 < report["lr"] < 0.02
    assert "nan" in report["gradient_norms"].values()
    images, labels = loop.training_batch(train, BAD, 1)
    tensors = load_file(find(BAD).path / "failure.safetensors")
    assert torch.equal(tensors["images"], images) and torch.equal(tensors["labels"], labels)
    with pytest.raises(RunFailed):  # the same command comes to the same step
        run(BAD, "cpu")
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "alone"))
    assert weights(run(GOOD, "cpu")) == together


def test_replay_repeats_the_step_bit_for_bit_from_the_checkpoint(runs, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(RunFailed):
        run(BAD, "cpu")
    before = {p: p.read_bytes() for p in find(BAD).path.iterdir() if p.name != "lock"}
    assert [p.name for p in state.checkpoints(find(BAD).path)] == ["checkpoint-0000001.pt"]
    assert main(["replay", BAD.id]) == 0
    printed = capsys.readouterr().out
    assert "from step 1 to step 1 on cpu" in printed and "(as reported)" in printed and "reported:" not in printed
    assert "first layer whose output is not finite: network." in printed and "norm nan" in printed
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)
    for checkpoint in state.checkpoints(find(BAD).path):  # without one it begins at the start
        checkpoint.unlink()
    assert printed.splitlines()[1:] == list(replay(find(BAD)))[1:]
    assert {p: p.read_bytes() for p in before if p.exists()} == {p: b for p, b in before.items() if p.exists()}
    assert main(["runs"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(BAD.id))
    assert row.split(maxsplit=1)[1].startswith("stopped: see `segkd replay`")
    asked, report = [], find(BAD).path / "failure.json"
    monkeypatch.setattr("segkd.replay.pick_device", lambda name: asked.append(name) or CPU)
    next(replay(find(BAD), "cuda")), next(replay(find(BAD)))
    report.write_text(report.read_text().replace('"device": "cpu"', '"device": "NVIDIA X"'))
    next(replay(find(BAD)))
    assert asked == ["cuda", "cpu", "auto"]  # as told, else what the run was on


def test_replay_names_the_backward_function_and_falls_back_on_what_was_saved(runs, monkeypatch):
    found = run(SHORT, "cpu")
    with pytest.raises(UserError, match="only a run that stopped"):
        list(replay(found))
    for checkpoint in state.checkpoints(found.path):
        checkpoint.unlink()
    images, labels = loop.training_batch(split_of(SHORT, "train"), SHORT, 0)
    network = {f"network.{k}": v for k, v in load_file(found.path / "model.safetensors").items()}
    images[0, 0, 0, 0] = math.nan
    state.write_tensors(found.path / "failure.safetensors", {"images": images, "labels": labels, **network})
    state.write_json(found.path / "failure.json", {"step": 0, "terms": {"task": "nan"}})
    lines = list(replay(found))
    place = next(i for i, line in enumerate(lines) if line.startswith("finite here"))
    assert not any("nan" in line for line in lines[1:place] if "reported" not in line)
    assert lines[place + 1] == "the image is not finite" and any("task" in x and "as reported" in x for x in lines[place:])
    assert any(line.startswith("backward: Function '") and "returned nan" in line for line in lines[place:])


def test_a_study_trains_what_it_can_and_reports_the_rest(runs):
    child = dataclasses.replace(GOOD, teacher=scheduled(SHORT, lr=1e30))
    with pytest.raises(RunFailed) as caught:
        execute([child, BAD, GOOD], ["cpu"])
    message = str(caught.value)
    assert f"run {child.teacher.id} stopped" in message and f"run {BAD.id} stopped" in message
    assert message.endswith("; 1 runs wait for it as their teacher") and "\n" not in message
    assert find(GOOD).done and not find(BAD).done and not find(child).path.exists()
