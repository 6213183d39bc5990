"""On a real GPU: what the pretended one (train/test_no_wait.py) and the CPU cannot show. `make gpu-check` runs these first."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.cudagraph_trees import get_manager

from segkd import runs
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, to_dict
from segkd.data.augment import augment
from segkd.losses import list_methods
from segkd.prediction import IGNORE
from segkd.study.execute.executor import execute
from segkd.study.tables.profiles import get_profile
from segkd.train import loop
from segkd.train.evaluate import evaluate
from segkd.train.runtime import computing
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network, method_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
STUDENT, SCHEDULE = NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=6, batch_size=2, lr=0.02, validations=2)
TEACHER = RunConfig(DATA, dataclasses.replace(STUDENT, width=0.1875), dataclasses.replace(SCHEDULE, steps=3))
CLASSES, SIZE = 11, (48, 64)
OPTIONS = {  # so that draws on the device are of no account
    "cirkd": {"cirkd": {"pixels_per_class": 64, "pixel_size": 300, "region_size": 30, "pixel_keys": 10**6, "region_keys": 10**6}},
    "lad+cwd": {"lad": {"alpha": 0.0, "teaching_alpha": 0.0}}, "fakd_pd": {"fakd_pd": {"covariance": "full"}},
}  # fmt: skip
CASES = [("baseline", "paper"), ("lad+cwd", "paper"), *((n, "paper") for n in list_methods() if n != "lad"), ("rdd", "official"), ("skd", "official")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return tmp_path


def student(method, **changes):
    return dataclasses.replace(RunConfig(DATA, STUDENT, SCHEDULE, method=method, teacher=None if method == "baseline" else TEACHER), **changes)


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def steps(device, method, variant):
    """Two steps on one batch: the second's row. On the GPU it may wait in `_finite` alone."""
    config = RunConfig(DATA, STUDENT, SCHEDULE, method=method, variant=variant, hyper=OPTIONS.get(method, {}), teacher=RunConfig())
    kind, draws = method_of(config).teacher_kind, torch.Generator().manual_seed(3)
    with computing("float32", device):
        network = dataclasses.replace(STUDENT, width=0.1875, extra_channels=0 if kind is None else 1)
        model = build_network(RunConfig(DATA, network, SCHEDULE), CLASSES).eval()
        if kind is not None:
            kind.build(model.info, None)
        teacher, trainee = Teacher(model.to(device), kind, 0), Trainee(config, CLASSES, model.info, device)
        images = torch.rand(2, 3, *SIZE, generator=draws).to(device)
        labels = torch.randint(0, CLASSES, (2, *SIZE), generator=draws).repeat_interleave(8, 1)[:, : SIZE[0]].to(device)
        labels[:, :5] = IGNORE
        trainee.train_step(images, labels, teacher(images, labels, 0))
        with waiting_in(trainee) if device.type == "cuda" else contextlib.nullcontext():
            return trainee.train_step(images, labels, teacher(images, labels, 1))


@contextlib.contextmanager
def waiting_in(trainee):
    """Any wait is an error, but those of the trainee's `_finite`."""
    finite = trainee._finite

    def allowed(terms):
        torch.cuda.set_sync_debug_mode("default")
        found = finite(terms)
        torch.cuda.set_sync_debug_mode("error")
        return found

    trainee._finite = allowed
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method, variant", CASES)
def test_a_step_gives_what_the_cpu_gives_and_waits_once(method, variant):
    assert steps(CUDA, method, variant) == pytest.approx(steps(CPU, method, variant), rel=5e-3, abs=1e-5)


@pytest.mark.parametrize("method", ["fakd_cwd", "kd+skd+cirkd+mgd+rdd"])
def test_resume_has_the_same_bits(folder, monkeypatch, method):
    config, straight = student(method), None
    straight = runs.run(config, "cuda")
    monkeypatch.setenv("SEGKD_RUNS", str(folder / "again"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    runs.run(config.teacher, "cuda")

    def stop(run, row):
        if row["step"] == 4:
            raise loop.OutOfTime

    with pytest.raises(loop.OutOfTime):
        runs.run(config, "cuda", stop)
    assert weights(runs.run(config, "cuda")) == weights(straight)


def test_a_cohort_gives_the_bits_of_its_runs_alone_and_each_its_own_time(folder, monkeypatch):
    configs = [student(method, schedule=dataclasses.replace(SCHEDULE, steps=30)) for method in ("kd", "cwd", "hwd")]
    together = runs.run_cohort(configs, "cuda")
    times = [run.result["seconds_per_step"] for run in together]
    assert all(run.result["teacher_seconds_per_step"] > 0 for run in together) and max(times[1:]) > 0.3 * times[0]
    monkeypatch.setenv("SEGKD_RUNS", str(folder / "alone"))
    for config, run in zip(configs, together):
        assert weights(runs.run(config, "cuda")) == weights(run)


def test_eight_small_students_as_cuda_graphs_give_the_values_of_the_plain_ones(folder):
    """The first step warms up, the second records, all others replay; the loop validates, saves and averages between them."""
    methods = "kd", "cwd", "hwd", "dist", "mgd", "fakd_cwd", "kd+cwd", "hwd+mgd"  # of few random draws, so that rounding stays small
    network, plan = dataclasses.replace(STUDENT, name="fcn/resnet18"), dataclasses.replace(SCHEDULE, lr=1e-3, average=0.5)
    counters.clear()
    configs = [[student(m, network=network, schedule=dataclasses.replace(plan, compile=flag)) for m in methods] for flag in (False, True)]
    found = [runs.run_cohort(cohort, "cuda") for cohort in configs]
    for plain, captured in zip(*found):
        losses = [[row["loss"] for row in run.metrics() if row["kind"] == "train"] for run in (plain, captured)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert counters["inductor"]["cudagraph_skips"] == 0 and counters["stats"]["unique_graphs"] == 1
    assert 2 * len(methods) <= get_manager(0).new_graph_id().id < 4 * len(methods)  # forward and backward of each, and not anew each step


def test_bf16_is_near_float32_and_repeats(folder, monkeypatch):
    config = student("cwd")
    mixed = dataclasses.replace(config, schedule=dataclasses.replace(SCHEDULE, precision="bf16"))
    exact, found = runs.run(config, "cuda"), runs.run(mixed, "cuda")
    losses = [[row["loss"] for row in run.metrics() if row["kind"] == "train"] for run in (exact, found)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]
    monkeypatch.setenv("SEGKD_RUNS", str(folder / "again"))
    assert weights(runs.run(mixed, "cuda")) == weights(found)


def test_the_profile_gpu_from_end_to_end(folder):
    profile = get_profile("gpu")
    network = dataclasses.replace(profile.student, weights=None)
    schedule = dataclasses.replace(profile.schedule, steps=3, batch_size=2, validations=1)
    assert schedule.precision == "bf16"
    assisted = RunConfig(dataclasses.replace(DATA, size=(96, 128)), dataclasses.replace(network, extra_channels=1), schedule, method="lad")
    found = runs.run(dataclasses.replace(assisted, network=network, method="lad+cwd", teacher=assisted), "cuda")
    assert found.result["origin"]["device"] == {"device": torch.cuda.get_device_name(CUDA), "deterministic": "True"}
    model = found.load_model()
    assert next(model.parameters()).is_cuda and next(model.parameters()).dtype == torch.float32
    counts = evaluate(model, runs.split_of(found.config, "val")), evaluate(model.cpu(), runs.split_of(found.config, "val"))
    assert (counts[0] - counts[1]).abs().sum() < 0.01 * counts[0].sum()


def test_a_process_of_its_own_takes_the_device_by_its_number(folder):
    (found,) = execute([student("baseline")], ["cuda:0"])
    assert found.done and found.result["peak_memory_mib"] > 0


def test_memory_is_that_of_the_cohort(folder):
    large = runs.run(RunConfig(dataclasses.replace(DATA, size=(192, 256)), dataclasses.replace(STUDENT, width=1.0), SCHEDULE), "cuda")
    small = runs.run(student("baseline"), "cuda")
    assert small.result["peak_memory_mib"] < 0.5 * large.result["peak_memory_mib"]


def test_a_batch_has_the_labels_of_the_cpu(folder):
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 40, 60, 3), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 3, (3, 5, 6), generator=draws, dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(10, 2)
    make = lambda *batch: augment(*batch, torch.Generator().manual_seed(2), (32, 32), continuous=True, cat_max_ratio=0.75, photometric=True)
    wanted = make(images, labels)
    images, labels = images.to(CUDA), labels.to(CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = make(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found[1].cpu(), wanted[1]) and torch.allclose(found[0].cpu(), wanted[0], atol=1e-3)


def test_tf32_is_its_own_word(folder):
    one, other = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)), torch.eye(512)
    with computing("float32", CUDA):
        assert torch.equal((one.to(CUDA) @ other.to(CUDA)).cpu(), one)
    if torch.cuda.get_device_capability() >= (8, 0):
        with computing("tf32", CUDA):
            assert not torch.equal((one.to(CUDA) @ other.to(CUDA)).cpu(), one)


def test_torchrun_with_one_process(folder):
    config = student("fakd_cwd")
    alone = runs.run(config, "cuda")
    path = folder / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "segkd.cli", "train", str(path)]
    environment = {**os.environ, "SEGKD_RUNS": str(folder / "torchrun"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "torchrun" / config.id / "result.json").read_text())
    assert found["miou"] == pytest.approx(alone.result["miou"], abs=0.02)
