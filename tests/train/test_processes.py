"""Several processes on one run: gradients, buffers and evaluation are those of one process; real processes, gloo on the CPU."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.store import pack
from segkd.losses import list_methods
from segkd.losses.method import create_method
from segkd.models import create_model
from segkd.runs import teacher_kind
from segkd.train.evaluate import evaluate
from segkd.train.loop import training_batch
from segkd.train.processes import from_first, is_first, own_shard, rank, world_size
from segkd.train.runtime import one_thread
from segkd.train.teacher import Teacher
from segkd.train.trainee import NonFiniteStep, Trainee
from tests.train.harness import assert_same

DATA = DataConfig(size=(48, 64), train_limit=8)
BATCH, CLASSES = 5, 11  # odd: shares of two sizes
CIRKD = {"cirkd": {"pixel_size": 60, "region_size": 8}}
FAST = ["baseline", "cwd", "hwd", "fakd_cwd", "kd+rdd", "lad+cwd"]
COUPLED = ["lad", "fakd_cwd", "kd+rdd+skd+cirkd+mgd"]  # noise of two paths, class statistics, images that see each other
REST = [m for m in ("kd", "dist", "at", "dsd", "fitnet", "ifvd", "fakd_pd", "maskd") if m in list_methods()]
OPTIONS = [("kd+rdd", "official", {}), ("kd+rdd", "paper", {"tfe_map": "mean"}), ("kd", "paper", {"reduction": "batch_sum"}),
           ("skd", "official", {}), ("mgd", "official", {}), ("lad", "official", {}),
           ("cwd", "official", {"feature_weight": 50.0})]  # fmt: skip


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """``together(n, function, *arguments)``: what ``function`` gives in each of n processes that have joined."""
    folder, number = tmp_path_factory.mktemp("meet"), iter(range(1000))
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")

    def call(n, function, *arguments):
        place = folder / str(next(number))
        members = [context.Process(target=member, args=(place, i, n, function, arguments)) for i in range(n)]
        [m.start() for m in members]
        [m.join(120) or m.kill() for m in members]
        errors = [path.read_text() for path in folder.glob(f"{place.name}-*.error")]
        assert not errors, errors[0]
        return [torch.load(f"{place}-{i}.pt", weights_only=True) for i in range(n)]

    return call


def member(place, number, n, function, arguments):
    import traceback

    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", f"file://{place}", timedelta(minutes=1), rank=number, world_size=n)
        torch.save(function(*arguments), f"{place}-{number}.pt")
        distributed.barrier()
    except BaseException:  # noqa: BLE001 - told to the test
        with open(f"{place}-{number}.error", "w") as file:
            file.write(traceback.format_exc())
    os._exit(0)


def config_of(method, variant="paper", hyper=None, arch="pspnet/resnet18", steps=4, unlabelled=0):
    extra = int(method == "lad")
    teacher = None if method in ("baseline", "lad") else RunConfig(DATA)
    hyper = {**(CIRKD if "cirkd" in method else {}), **(hyper or {})}
    network = NetworkConfig(arch, 0.125, extra_channels=extra)
    schedule = Schedule(steps=steps, batch_size=BATCH, lr=0.01)
    return RunConfig(DATA, network, schedule, method=method, variant=variant, hyper=hyper, teacher=teacher, unlabelled=unlabelled)


def two_steps(config, train_mode=True):
    """Terms, gradients and all state after two steps in float64, so that only mistakes and no rounding show."""
    packed, share = pack(DATA.name, "train", DATA.size, limit=DATA.train_limit), own_shard(BATCH + config.unlabelled)
    beside = pack(DATA.name, "val", DATA.size, limit=DATA.train_limit) if config.unlabelled else None
    teacher = None
    if config.teacher is not None:
        torch.manual_seed(1)
        extra = 3 + ("lad" in config.method.split("+"))
        network = create_model("pspnet", "resnet18", None, extra, classes=CLASSES, width=0.1875)
        teacher = Teacher(network.double(), teacher_kind(config, network.info), config.seed)
    trainee = Trainee(config, CLASSES, teacher and teacher.model.info, torch.device("cpu"), share)
    trainee.model.double(), trainee.modules.double()
    if not train_mode:
        for module in trainee.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    found = {}
    for step in (0, 1):
        images, labels = training_batch(packed, config, step, rank=rank(), world_size=world_size(), unlabelled=beside)
        images, prediction = images.double(), None
        if teacher is not None:
            prediction = teacher(images, labels, step, share)
        found[f"terms{step}"] = trainee.train_step(images, labels, prediction)
        both = (*trainee.model.named_parameters(prefix="network"), *trainee.modules.named_parameters(prefix="method"))
        found[f"gradients{step}"] = {name: p.grad.clone() for name, p in both if p.grad is not None}
    return found | {"model": trainee.model.state_dict(), "modules": dict(trainee.modules.state_dict())}


def many(cases, train_mode=True):
    return [two_steps(case, train_mode) for case in cases]


def compare(together, cases, n, train_mode=True):
    alone = many(cases, train_mode)
    for number, results in enumerate(together(n, many, cases, train_mode)):
        for case, ours, theirs in zip(cases, results, alone):
            assert_same(ours, theirs, f"{case.method} {case.variant} {case.hyper}, process {number} of {n}", 1e-9)


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def test_two_processes_make_the_steps_of_one_with_batch_norm_in_eval(together):
    compare(together, [config_of(method) for method in FAST], 2, train_mode=False)


def test_two_processes_make_the_steps_of_one(together):
    compare(together, [*map(config_of, COUPLED), config_of("fakd_pd", hyper={"covariance": "full"})], 2)


def test_images_beside_are_shared_out_too(together):
    compare(together, [config_of("cwd+mgd", unlabelled=4)], 2)


@pytest.mark.slow
def test_every_method_option_and_head_in_three_processes(together):
    cases = [config_of(method) for method in REST] + [config_of(*case) for case in OPTIONS]
    heads = [config_of("baseline", arch=arch) for arch in ("deeplabv3/mobilenet_v2", "stdc/stdc1")]
    compare(together, cases + heads, 3)


def matrices(counts, kind):
    """Confusion matrices over the first images of a split, for a network with random weights."""
    config = config_of("lad" if kind else "baseline")
    torch.manual_seed(3)
    network = create_model("pspnet", "resnet18", None, 4 if kind else 3, classes=CLASSES, width=0.125)
    method = create_method(config.method)
    method.build(network.info)
    sets = [pack(DATA.name, "val", (32, 48), limit=count) for count in counts]
    return [evaluate(network, packed, method.teacher_kind, seed=2) for packed in sets]


@pytest.mark.parametrize("kind", [False, True], ids=["image", "label too"])
def test_evaluation_counts_every_image_once(together, kind):
    counts = [1, 7, 8, 9, 21]
    alone = matrices(counts, kind)
    assert [int(one.sum()) > 0 for one in alone]
    for n in (2,) if kind else (1, 2, 3, 4):
        for found in together(n, matrices, counts, kind):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, alone)), n


def told():
    return [from_first(lambda: {"rank": rank(), "weights": torch.arange(3.0)}), is_first(), world_size(), own_shard(5).starts]


def test_the_first_tells_the_others(together):
    for number, (state, first, count, starts) in enumerate(together(3, told)):
        assert state["rank"] == 0 and state["weights"].tolist() == [0, 1, 2]
        assert (first, count, starts) == (number == 0, 3, (0, 1, 3, 5))


def stopped():
    """The error of a step in which one image, of the last process alone, is not finite."""
    trainee = Trainee(config_of("baseline"), CLASSES, None, torch.device("cpu"), own_shard(BATCH))
    packed = pack(DATA.name, "train", DATA.size, limit=DATA.train_limit)
    images, labels = training_batch(packed, trainee.config, 0, rank=rank(), world_size=world_size())
    if rank() == world_size() - 1:
        images[-1] = float("nan")
    try:
        trainee.train_step(images, labels, None)
    except NonFiniteStep as error:
        return [error.bad]
    return ["no error"]


def test_a_step_that_one_process_finds_not_finite_stops_all(together):
    assert together(2, stopped) == [[["task", "task_aux", "loss", "gradient"]]] * 2
