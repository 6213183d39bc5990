"""Precision, torch.compile and the teacher without auxiliary head: what they may change of a run, and what not."""

import dataclasses

import pytest
import torch
from torch import nn

from segkd.config import Schedule
from segkd.data.store import Packed
from segkd.losses.distributed import Shard
from segkd.models import create_model, list_models
from segkd.models.adapt import adapt
from segkd.models.deploy import drop_aux_head, fold_norms
from segkd.registry import UserError
from segkd.runs import cohort_of, find, run, run_cohort
from segkd.study.tables.profiles import get_profile
from segkd.train import loop, runtime
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee
from tests.train.harness import CPU, PLAIN, STATEFUL, batch, scheduled, student, weights

BASE = dataclasses.replace(PLAIN, schedule=Schedule("adamw", steps=4, batch_size=2, lr=0.01, validations=2))
TEACHER = scheduled(BASE, steps=1, validations=1)


def test_an_unknown_precision_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"schedule.precision.*'bf61'.*bf16"):
        run(scheduled(BASE, precision="bf61"), "cpu")


def test_bf16_is_of_the_forward_passes_alone():
    images, labels = batch()
    trainee = Trainee(scheduled(BASE, precision="bf16"), 5, None, CPU)
    assert trainee.forward(images).logits.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in trainee.losses(images, labels, None).values())
    teacher = Teacher(create_model("pspnet", "resnet18", width=0.125, classes=5), None, 0, precision="bf16")
    assert teacher(images, labels, 0).logits.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in (*trainee.model.parameters(), *teacher.model.parameters()))
    trainee.train_step(images, labels, None)
    assert trainee.model(images).logits.dtype == torch.float32, "validation, outside the step, is float32"


def test_the_profiles_for_gpus_train_in_bf16_and_say_so():
    for profile in (get_profile("gpu"), get_profile("paper")):
        assert profile.schedule.precision == "bf16" and "bf16; RDD trained in float16" in profile.shows
    trainee = Trainee(dataclasses.replace(PLAIN, schedule=get_profile("gpu").schedule), 5, None, CPU)
    layouts = [p.is_contiguous(memory_format=torch.channels_last) for p in trainee.model.parameters() if p.dim() == 4]
    assert trainee.optimiser.defaults["fused"] and all(layouts) and len(layouts) > 20


@pytest.mark.slow
@pytest.mark.parametrize("method", ["baseline", "cwd", "fakd_cwd+rdd"])
def test_bf16_trains_like_float32(method):
    """The loss of 30 steps on a batch falls by more than a third, and is within 10 % of float32's all the way."""
    images, labels = batch()
    labels[:] = (images[:, 0] * 4).long()
    curves = {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(3)
        teacher = Teacher(create_model("pspnet", "resnet18", width=0.125, classes=5), None, 0, precision=precision)
        chosen = dataclasses.replace(scheduled(BASE, precision=precision, steps=30), method=method)
        trainee = Trainee(chosen, 5, None if method == "baseline" else teacher.model.info, CPU)
        said = lambda step: None if method == "baseline" else teacher(images, labels, step)  # noqa: E731
        curves[precision] = torch.tensor([trainee.train_step(images, labels, said(k))["task"] for k in range(30)])
    torch.testing.assert_close(curves["bf16"], curves["float32"], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("kind, shard, graphs", [("cuda", None, True), ("cuda", Shard(0, (0, 1, 2)), False), ("cpu", None, False)])
def test_cuda_graphs_are_asked_for_where_one_process_trains_on_a_gpu(monkeypatch, kind, shard, graphs):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    monkeypatch.setattr(nn.Module, "to", lambda module, *where, **how: module)
    trainee = Trainee(scheduled(BASE, compile=True), 5, None, torch.device(kind), shard)
    assert asked == [{"dynamic": False, "options": {"fallback_random": True, "triton.cudagraphs": graphs}}] and trainee.captured == graphs


def test_a_cohort_reads_nothing_that_cuda_graphs_overwrite(monkeypatch):
    """A stub for them: from each mark on, what forwards gave and all gradients are NaN. Still the bits of plain runs, whatever methods keep."""
    given, models, begun, begin = [], [], [], Trainee.__init__

    def stub(model, **how):
        def forward(images):
            begun.append("forward")
            said = model(images)
            given.extend(t for t in (said.logits, said.aux_logits, said.feature, *said.stages) if t is not None)
            return said

        models.append(model)
        return forward

    def mark():
        begun.append("mark")
        for tensor in (*given, *(p.grad for model in models for p in model.parameters() if p.grad is not None)):
            tensor.data.fill_(torch.nan)
        given.clear()

    def captured(self, config, *rest):
        begin(self, config, *rest)
        self.captured = config.schedule.compile

    monkeypatch.setattr(torch, "compile", stub)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", mark)
    monkeypatch.setattr(Trainee, "__init__", captured)
    monkeypatch.setattr(runtime, "compiler", lambda device: "none")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    configs = [scheduled(student(method), steps=4, average=0.5) for method in ("fakd_pd", STATEFUL, "dist")]
    found = [run_cohort([scheduled(c, compile=flag) for c in configs], "cpu") for flag in (False, True)]
    for plain, compiled in zip(*found):
        assert weights(plain) == weights(compiled) and plain.metrics() == compiled.metrics()
    assert begun == ["mark", "forward"] * 4 * len(configs)


def test_students_of_a_network_share_one_graph_that_holds_no_tensor_of_the_cpu():
    """Else each would be compiled anew, until torch gives up at the eighth; and a CPU's tensor is no part of a CUDA graph."""
    torch._dynamo.reset()
    traced = []
    keep = lambda graph, inputs: traced.append(graph) or graph.forward  # noqa: E731
    for model in (create_model("deeplabv3", "resnet18", width=0.125, classes=5).to("meta") for _ in range(2)):
        torch.compile(model, dynamic=False, backend=keep)(torch.rand(2, 3, 64, 64, device="meta"))
    (graph,) = traced
    devices = {t.device.type for node in graph.graph.nodes for t in tensors(node.meta.get("example_value")) if isinstance(t, torch.Tensor)}
    assert devices == {"meta"}


@pytest.mark.slow
def test_compile_gives_the_same_step_and_saves_the_plain_network():
    found, (images, labels) = [], batch()
    for flag in (False, True):
        trainee = Trainee(scheduled(BASE, compile=flag), 5, None, CPU)
        row = trainee.train_step(images, labels, None)
        norms = torch.tensor(list(trainee.gradient_norms().values()))
        found.append((row["loss"], norms, set(trainee.state()["model"]), trainee.forward(images)))
    (loss, norms, keys, plain), (other, others, same_keys, compiled) = found
    assert other == pytest.approx(loss, rel=1e-5) and keys == same_keys
    torch.testing.assert_close(others, norms, rtol=1e-2, atol=1e-4)
    for field in dataclasses.fields(plain):  # the whole Prediction comes through
        assert (getattr(plain, field.name) is None) == (getattr(compiled, field.name) is None)


def test_a_cohorts_teacher_keeps_its_auxiliary_head_only_where_a_method_reads_it():
    teacher = run(TEACHER, "cpu")
    students = {m: dataclasses.replace(BASE, method=m, teacher=TEACHER) for m in ("cwd", "rdd")}
    images, labels = batch()
    said = {}
    for names in (("cwd",), ("cwd", "rdd")):
        cohort = cohort_of([find(students[m]) for m in names], teacher, CPU)
        assert isinstance(cohort.train, Packed)
        said[names] = cohort.teacher(images, labels, 0)
    alone, both = said.values()
    assert alone.aux_logits is None and both.aux_logits is not None
    assert torch.equal(alone.logits, both.logits) and torch.equal(alone.feature, both.feature)


def test_ocrnet_keeps_the_head_that_it_looks_at():
    model = create_model("ocrnet", "hrnet_w18_small", width=0.125, classes=5)
    drop_aux_head(model)
    assert model.aux_head is not None


FAST = ("deeplabv3/resnet18", "pspnet/mobilenetv2")
ALL = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in list_models() if "dinov2" not in name]


@pytest.mark.parametrize("name", ALL)
def test_folded_norms_leave_every_part_of_the_prediction_as_it_is(name):
    torch.manual_seed(0)
    check_folded(create_model(*name.split("/"), width=0.25, classes=5), torch.rand(2, 3, 64, 96))


@pytest.mark.parametrize("arch", ["deeplabv3plus", "pspnet", "smp.PAN"])
@pytest.mark.parametrize("adapted", [False, True])
def test_norms_fold_where_images_of_64_pixels_are_too_small(arch, adapted):
    torch.manual_seed(0)
    options = {} if arch.startswith("smp") else {"output_stride": 32, "width": 0.125}
    model, images = create_model(arch, "resnet18", classes=5, **options), torch.rand(2, 3, 128, 160)
    assert model.info.smallest == 128
    with pytest.raises(UserError, match="both sides must be at least 128"):
        model(images[..., :127])
    check_folded(adapt(model, logits="", size=(128, 160)) if adapted else model, images)


def check_folded(model, images):
    """The prediction on ``images`` before and after folding, with batch norms that do something."""
    for norm in (m for m in model.eval().modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    with torch.no_grad():
        before = model(images)
        assert fold_norms(model) > 10
        after = model(images)
    for field in dataclasses.fields(before):
        for was, now in zip(tensors(getattr(before, field.name)), tensors(getattr(after, field.name)), strict=True):
            torch.testing.assert_close(now, was, rtol=0, atol=1e-4 * max(1.0, was.abs().max().item()))


def tensors(value) -> list[torch.Tensor]:
    return [] if value is None else [value] if isinstance(value, torch.Tensor) else list(value)
