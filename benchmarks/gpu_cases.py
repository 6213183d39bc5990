"""What `gpu.py` measures: networks on a device and the lines of its table, a function each."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import loss_cases
import torch
import torch.nn.functional as F
from losses import Work
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.store import pack
from segkd.losses.cwd import channelwise_kl
from segkd.losses.method import create_method
from segkd.models.deploy import drop_aux_head, fold_norms
from segkd.train.ahead import ahead
from segkd.train.evaluate import evaluate
from segkd.train.loop import Cohort, _cohort_step, own_batch
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

CLASSES, COHORT = 19, 8


@dataclass(frozen=True)
class Scale:
    """How large everything is; `TINY` is for a machine without GPU."""

    batch: int = 16
    size: tuple[int, int] = (512, 1024)
    width: float = 1.0
    crop: tuple[int, int] = (360, 360)  # of CamVid, whose images are ``image``; so many of them
    image: tuple[int, int] = (360, 480)
    images: int = 64
    grids: tuple = tuple(loss_cases.SHAPES.values())  # (B, C, h, w) of each loss by itself
    matrix: int = 8192
    repeats: int = 15


TINY = Scale(2, (64, 64), 0.125, (64, 64), (64, 80), 4, ((2, 19, 8, 16),), matrix=128, repeats=2)


class Bench:
    """A device and a scale, and the networks at them."""

    def __init__(self, device: torch.device, scale: Scale):
        self.device, self.scale = device, scale
        self.images = torch.rand(scale.batch, 3, *scale.size, device=device)
        self.labels = torch.randint(0, CLASSES, (scale.batch, *scale.size), device=device)

    def network(self, encoder: str, extra_channels: int = 0) -> torch.nn.Module:
        chosen = NetworkConfig(f"deeplabv3/{encoder}", self.scale.width, None, extra_channels)
        return build_network(RunConfig(DataConfig(), chosen, Schedule()), CLASSES).to(self.device)

    def teacher(self, encoder: str, method: str) -> Teacher:
        """As in a run: bf16, norms folded, no auxiliary head."""
        kind = create_method(method).teacher_kind
        model = self.network(encoder, 0 if kind is None else kind.extra_channels).eval()
        if kind is not None:
            kind.build(model.info, None)
        drop_aux_head(model)
        fold_norms(model)
        return Teacher(model, kind, 0, precision="bf16")

    def trainee(self, method: str = "baseline", teacher: Teacher | None = None, encoder: str = "resnet18", **schedule) -> Trainee:
        network, data = NetworkConfig(f"deeplabv3/{encoder}", self.scale.width), DataConfig(size=self.scale.image, crop=self.scale.crop)
        plan = Schedule(steps=10_000, batch_size=self.scale.batch, lr=1e-3, **{"precision": "bf16"} | schedule)
        config = RunConfig(data, network, plan, method=method, teacher=teacher and RunConfig())
        return Trainee(config, CLASSES, teacher and teacher.model.info, self.device)

    def step(self, student: Trainee, teacher: Teacher | None = None) -> Callable[[], object]:
        """One step, the teacher's pass included."""
        said = teacher or (lambda *seen: None)
        return lambda: student.train_step(self.images, self.labels, said(self.images, self.labels, student.step))

    def seconds(self, work: Callable[[], object]) -> float:
        """Median wall time after two calls that do not count."""
        work(), work()
        times = []
        for _ in range(self.scale.repeats):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def matrix_rate(self) -> float:
        """FLOP/s of one large bf16 matrix product."""
        n = self.scale.matrix
        one, other = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * n**3 / self.seconds(lambda: one @ other)


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in one call, backward included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def eager_step(bench: Bench) -> Callable[[], object]:
    """The LAD student's step as one writes it first: float32, NCHW, a loop over parameters, scores at label size."""
    model, source = bench.network("resnet18"), bench.teacher("resnet18", "lad+cwd")
    model.to(memory_format=torch.contiguous_format).train()
    plain = bench.network("resnet18", 1).to(memory_format=torch.contiguous_format)  # norms and auxiliary head in place
    teacher = Teacher(plain, source.kind, 0)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-4, fused=False, foreach=False)

    def entropy(scores: Tensor) -> Tensor:
        up = F.interpolate(scores, bench.scale.size, mode="bilinear", align_corners=True)
        return F.cross_entropy(up, bench.labels, ignore_index=255)

    def step() -> float:
        said, found = teacher(bench.images, bench.labels, 0), model(bench.images)
        loss = entropy(found.logits) + 0.4 * entropy(found.aux_logits) + 3 * channelwise_kl(found.logits, said.logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def cohort(bench: Bench, source: Teacher, together: bool = True, **schedule) -> Callable[[], object]:
    """A step of eight students: one teacher pass for all, or one for each."""
    students = [bench.trainee("cwd", source, **schedule) for _ in range(COHORT)]

    def step() -> None:
        for number, student in enumerate(students):
            if number == 0 or not together:
                said = source(bench.images, bench.labels, 0)
            student.train_step(bench.images, bench.labels, said)

    return step


def small_students(bench: Bench) -> Iterator[tuple[str, ...]]:
    """A cohort as small as those of the profile `scratch`: its kernels take less time than to begin them."""
    scale = bench.scale
    few = Bench(bench.device, replace(scale, batch=max(2, scale.batch // 4), size=min(scale.size, (192, 256)), width=scale.width / 8))
    source = few.teacher("resnet18", "cwd")
    plain, graphs = (few.seconds(cohort(few, source, compile=flag)) for flag in (False, True))
    yield row("eight small students, a step", 1e3 * plain, unit="ms")
    yield row("eight small students, compiled as CUDA graphs", 1e3 * graphs, unit="ms")
    yield row("eight small students, plain / CUDA graphs", plain / graphs, 2, True)


def depthwise_nchw(model: torch.nn.Module) -> None:
    """Depthwise convolutions alone see NCHW, so that torch's own kernel computes them, not cuDNN's; all else stays channels_last."""
    for conv in (m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == m.in_channels > 1):
        conv.weight.data = conv.weight.data.to(memory_format=torch.contiguous_format)
        conv.register_forward_pre_hook(lambda conv, seen: seen[0].contiguous())


LAYOUTS = {
    "channels_last": lambda model: None,
    "NCHW": lambda model: model.to(memory_format=torch.contiguous_format),
    "channels_last but for depthwise": depthwise_nchw,
}


def layouts(bench: Bench, bare: float) -> Iterator[tuple[str, ...]]:
    """MobileNetV2 and R18 in each layout, cuDNN's algorithms by its rules and by trial, and compiled, over the R18 step as it is."""
    for name, search, layout in itertools.product(("MobileNetV2", "R18"), (False, True), LAYOUTS):
        if name == "MobileNetV2" or "depthwise" not in layout:
            student = bench.trainee(encoder="mobilenet_v2" if name == "MobileNetV2" else "resnet18")
            torch.backends.cudnn.benchmark = search
            LAYOUTS[layout](student.model)
            taken = bench.seconds(bench.step(student)) / bare
            yield row(f"{name} step / R18 step, {layout}{', cudnn.benchmark' * search}", taken, 1.0 if name == "MobileNetV2" else None)
    torch.backends.cudnn.benchmark = False
    taken = bench.seconds(bench.step(bench.trainee(encoder="mobilenet_v2", compile=True))) / bare
    yield row("MobileNetV2 step / R18 step, compiled as CUDA graphs", taken, 1.0)


def at_camvids_size(bench: Bench) -> Iterator[tuple[str, ...]]:
    """What the first profile of this study on a GPU meets: small networks, the product's loop, scoring."""
    bare = bench.seconds(bench.step(bench.trainee()))
    yield from layouts(bench, bare)
    with tempfile.TemporaryDirectory() as folder:
        split = pack("scenes", "train", bench.scale.image, packed_dir=folder, limit=bench.scale.images)
        student = bench.trainee()
        cohort = Cohort([student.config], [Path(folder)], split, split, None, bench.device)
        with ahead(lambda step: own_batch(cohort, step), student.config.schedule.steps) as batches:
            loop = bench.seconds(lambda: _cohort_step(cohort, [student], student.step, batches(student.step)))
        yield row("loop / bare step, R18", loop / bare, 1.03)
        yield row(f"scoring 334 images of 360x480, by {len(split)}", 334 / len(split) * 1e3 * bench.seconds(lambda: evaluate(student.model, split)), 1000, unit="ms")
    few = Bench(bench.device, replace(bench.scale, batch=max(2, bench.scale.batch // 2)))
    same = few.teacher("resnet18", "cwd")
    times = [few.seconds(few.step(few.trainee(method, same), same)) for method in ("kd+cirkd", "cwd")]
    yield row("CIRKD step / CWD step, R18 teacher, 8 crops of 360x360", times[0] / times[1], 1.5)


def alone(bench: Bench) -> Iterator[tuple[str, ...]]:
    """Each loss, forward and backward, beside the plain transcription of its formula."""
    loss_cases.device = bench.device
    names = [name for name in loss_cases.CASES if name not in ("lad_noise", "rdd_tse_official")]  # whose transcriptions are of the CPU
    for shape, name in itertools.product(bench.scale.grids, names):
        inputs = loss_cases.Inputs(shape)
        ours, plain = (bench.seconds(Work(name, side, inputs).seconds) for side in ("ours", "plain"))
        yield row(f"loss {name} / its plain formula, {shape[1]} classes", ours / plain, 0.6 if name == "cirkd_batch" else 1.0)


def row(what: str, value: float, target: float | None = None, at_least: bool = False, unit: str = "x") -> tuple[str, ...]:
    """A line of the table as text."""
    shown = f"{value:.3g}" + {"x": "x", "%": " %", "ms": " ms", "TFLOP/s": " TFLOP/s"}[unit]
    if target is None:
        return what, shown, "", ""
    met = value >= target if at_least else value <= target
    return what, shown, f"{'≥' if at_least else '≤'} {target:g}", "yes" if met else "no"


def profile(work: Callable[[], object], device: torch.device) -> str:
    """Where the time of one call goes: the ten operations that take most of it themselves."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = device.type == "cuda"
    with record(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as found:
        work()
    kind, key = (DeviceType.CUDA, "self_device_time_total") if cuda else (DeviceType.CPU, "self_cpu_time_total")
    own = {event.key: (getattr(event, key), event.count) for event in found.key_averages() if event.device_type == kind}
    total, first = sum(spent for spent, _ in own.values()), sorted(own.items(), key=lambda item: -item[1][0])[:10]
    lines = [f"| {name[:60]} | {100 * spent / total:.1f} % | {calls} |" for name, (spent, calls) in first]
    return "\n".join(["| operation | share of the time | calls |", "| --- | --- | --- |", *lines])
