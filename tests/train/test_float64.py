"""A float64 run: nothing in it is float32, from the first draw to the last score, and a last bit stays a last bit."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segkd import runs
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.losses import list_methods
from segkd.models.weights import file_record
from segkd.registry import UserError
from segkd.replay import replay
from segkd.train import loop, trainee
from segkd.train.loop import own_batch, start, taught
from segkd.train.runtime import check_schedule, computing
from tests.train.harness import Stop, scheduled, stop_at, weights

DATA = DataConfig(size=(48, 64), train_limit=6, eval_limit=3)
SCHEDULE = Schedule("adamw", steps=3, batch_size=2, lr=0.01, validations=1, precision="float64")
METHODS = ("baseline", "lad", "lad+cwd", "at+dsd+fitnet+ifvd+dist+hwd+fakd_cwd+fakd_pd", "kd+skd+cirkd+maskd+mgd+rdd")
PLAIN = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.0625), SCHEDULE)
LABEL = replace(PLAIN, network=replace(PLAIN.network, extra_channels=1), method="lad")


class NoFloat32(TorchDispatchMode):
    """Notes every operation of torch that gives float32 numbers; whole ones, such as counts, are exact in any type."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        floats = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32 and not leaf.is_meta]
        if any((leaf.frac() != 0).any() for leaf in floats):
            self.found.add(str(function))
        return out


def config_of(method: str) -> RunConfig:
    if method in ("baseline", "lad"):
        return LABEL if method == "lad" else PLAIN
    hyper = {"cirkd": {"pixel_size": 60, "region_size": 8}} if "cirkd" in method else {}
    return replace(PLAIN, method=method, hyper=hyper, teacher=LABEL if "lad" in method else PLAIN)


def steps_of(config: RunConfig, count: int) -> list[dict[str, float]]:
    """The terms of some steps from the start, and an evaluation; nothing is finished or written."""
    teacher = config.teacher and runs.run(config.teacher, "cpu")
    with computing(config.schedule.precision, torch.device("cpu")):
        cohort = runs.cohort_of([runs.find(config)], teacher, torch.device("cpu"))
        ours = start(config, runs.find(config).path, cohort)
        rows = [ours.train_step(*taught(cohort, [ours], step, *own_batch(cohort, step))) for step in range(count)]
        runs.evaluate_each(ours.model, cohort.val, runs.input_kind(ours))
    return rows


def test_these_are_all_methods():
    assert {part for method in METHODS for part in method.split("+")} == {"baseline", *list_methods()}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_float32(method):
    """Weights, batch, noise, teacher, losses, backward, update and evaluation."""
    with NoFloat32() as seen:
        steps_of(config_of(method), 2)
    assert not seen.found
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_a_last_bit_stays_a_last_bit(method, monkeypatch):
    """What another processor does to a run: starts that differ by rounding."""
    first = steps_of(config_of(method), 3)
    build = trainee.build_network

    def nearly(config, classes, start=True):
        network = build(config, classes, start)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 1e-15)
        return network

    monkeypatch.setattr(trainee, "build_network", nearly)
    second = steps_of(config_of(method), 3)
    gaps = [abs(a[key] / b[key] - 1) for a, b in zip(first, second) for key in a if b[key]]
    assert 0 < max(gaps) < 1e-10


@pytest.mark.parametrize("method", ["lad", METHODS[-1]])
def test_an_interrupted_run_ends_with_the_same_bits(method, tmp_path, monkeypatch):
    config = config_of(method)
    whole = weights(runs.run(config, "cpu"))
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Stop):
        runs.run(config, "cpu", stop_at(2, config.id))
    again = runs.run(config, "cpu")
    assert again.result["origin"].keys() == runs.find(config).result["origin"].keys()
    assert weights(again) == whole
    assert next(again.load_model().parameters()).dtype == torch.float64


def test_networks_of_either_precision_teach_and_start_the_other():
    single, double = scheduled(PLAIN, precision="float32"), PLAIN
    for teacher, student in ((single, double), (double, single)):
        steps_of(replace(student, method="kd", teacher=teacher), 2)
        file = runs.find(teacher).path / "model.safetensors"
        network = replace(student.network, checkpoint=str(file), checkpoint_hash=file_record(str(file))["content"])
        started = runs.run(replace(student, network=network, schedule=replace(student.schedule, steps=0)), "cpu")
        scores = [found.result["miou"] for found in (started, runs.find(teacher))]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_failure_is_replayed():
    bad = replace(PLAIN, schedule=replace(SCHEDULE, optimiser="sgd"), method="kd", teacher=PLAIN, hyper={"kd": {"weight": 1e300}})
    with pytest.raises(UserError, match="stopped before the update"):
        runs.run(bad, "cpu")
    lines = list(replay(runs.find(bad)))
    assert any("(as reported)" in line for line in lines) and torch.get_default_dtype() == torch.float32


def test_what_has_no_float64_is_said(capsys):
    with pytest.raises(UserError, match="float64 with schedule.compile"):
        runs.run(scheduled(PLAIN, compile=True), "cpu")
    with pytest.raises(UserError, match="mps has no float64"):
        check_schedule(SCHEDULE, torch.device("mps"))
    check_schedule(SCHEDULE, torch.device("cuda", 0))
    assert "slower" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean 'float64'"):
        runs.run(scheduled(PLAIN, precision="float46"), "cpu")
    assert not runs.runs_root().exists()
