"""The speed targets of one GPU: a dated table in results/gpu.md beside this file, written as it is measured.

``make gpu-check`` (at most 13 minutes, the tests that need a GPU first), or ``python benchmarks/gpu.py``. DeepLabV3 with ResNet-18 on crops of 512x1024, 19 classes, random weights and
images that lie on the device, so that nothing but the step is timed. ``--device cpu --tiny`` only shows that the script runs.
"""

import argparse
import datetime
import itertools
import statistics
import subprocess
import sys
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
from segkd.train.runtime import computing
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

FILE = Path(__file__).parent / "results" / "gpu.md"
CLASSES, COHORT = 19, 8
COLUMNS = ("what", "measured", "target", "met")
LIMIT, TESTS = 660, 300  # seconds: after the first nothing more is begun; for the tests


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
    compile: bool = True


TINY = Scale(2, (64, 64), 0.125, (64, 64), (64, 80), 4, ((2, 19, 8, 16),), matrix=128, repeats=2, compile=False)


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


def cohort_seconds(bench: Bench, source: Teacher) -> tuple[float, float]:
    """Eight steps with a teacher pass each, and with one for all."""
    students = [bench.trainee("cwd", source) for _ in range(COHORT)]

    def apart() -> None:
        for student in students:
            student.train_step(bench.images, bench.labels, source(bench.images, bench.labels, 0))

    def together() -> None:
        said = source(bench.images, bench.labels, 0)
        for student in students:
            student.train_step(bench.images, bench.labels, said)

    return bench.seconds(apart), bench.seconds(together)


def at_camvids_size(bench: Bench) -> Iterator[tuple[str, ...]]:
    """What the first profile of this study on a GPU meets: small networks, the product's loop, scoring."""
    bench = Bench(bench.device, replace(bench.scale, size=bench.scale.crop))
    bare = {name: bench.seconds(bench.step(bench.trainee(encoder=name))) for name in ("resnet18", "mobilenet_v2")}
    yield row("MobileNetV2 step / R18 step, crops of 360x360", bare["mobilenet_v2"] / bare["resnet18"], 1.0)
    with tempfile.TemporaryDirectory() as folder:
        split = pack("scenes", "train", bench.scale.image, packed_dir=folder, limit=bench.scale.images)
        student = bench.trainee()
        cohort = Cohort([student.config], [Path(folder)], split, split, None, bench.device)
        with ahead(lambda step: own_batch(cohort, step), student.config.schedule.steps) as batches:
            loop = bench.seconds(lambda: _cohort_step(cohort, [student], student.step, batches(student.step)))
        yield row("loop / bare step, R18", loop / bare["resnet18"], 1.03)
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


def measure(bench: Bench) -> Iterator[tuple[str, ...]]:
    """The lines of the table, each as soon as it is known; all but the plain loop as a run computes."""
    ours = lambda: computing("bf16", bench.device)  # noqa: E731
    with ours():
        rate = bench.matrix_rate()
        yield row("bf16 matrix product", rate / 1e12, unit="TFLOP/s")
        label_teacher, large = bench.teacher("resnet18", "lad+cwd"), bench.teacher("resnet101", "cwd")
        plain = bench.step(bench.trainee("lad+cwd", label_teacher), label_teacher)
        work, lad = flops(plain), bench.seconds(plain)
        yield row("LAD step, bf16", 1e3 * lad, unit="ms")
        yield row("work of the LAD step, share of the matrix rate", 100 * work / lad / rate, 40, True, "%")
        cwd = bench.seconds(bench.step(bench.trainee("cwd", large), large))
        yield row("CWD step with R101 teacher, bf16", 1e3 * cwd, unit="ms")
        yield row("LAD step / CWD step", lad / cwd, 0.65)
        cirkd = bench.seconds(bench.step(bench.trainee("kd+cirkd", large), large))
        yield row("CIRKD step / CWD step, R101 teacher", cirkd / cwd, 1.5)
    yield row("LAD step, deterministic / any algorithm", lad / bench.seconds(plain))
    torch.backends.cudnn.allow_tf32 = True  # torch's default, which whoever writes it first has
    eager = bench.seconds(eager_step(bench))
    torch.backends.cudnn.allow_tf32 = False
    yield row("own eager float32 NCHW loop, LAD step", 1e3 * eager, unit="ms")
    yield row("eager loop / LAD step", eager / lad, 3, True)
    with ours():
        apart, together = cohort_seconds(bench, large)
        yield row("cohort of 8 / eight alone, CWD, R101 teacher", together / apart, 0.6)
        if bench.scale.compile:
            compiled = bench.seconds(bench.step(bench.trainee("lad+cwd", label_teacher, compile=True), label_teacher))
            yield row("LAD step, bf16, torch.compile", 1e3 * compiled, unit="ms")
        yield from at_camvids_size(bench)
    yield from alone(bench)
    with ours():
        yield "", "", "", profile(plain, bench.device)  # the last: no line of the table


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


def page(bench: Bench, rows: list[tuple[str, ...]], shares: str, tests: str) -> str:
    """Date, device and versions, the tests, the targets, the profile; of what was measured so far."""
    device = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    head = f"{datetime.date.today()}, {device}, torch {torch.__version__}, batch {bench.scale.batch} of {bench.scale.size}"
    table = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    lines = ["# Speed on one GPU", "", f"Generated by `make gpu-check`: {head}. Tests: {tests}.", "", *(f"| {' | '.join(x)} |" for x in table)]
    return "\n".join([*lines, "", *(["Where the time of the LAD step goes:", "", shares, ""] if shares else [])])


def tested() -> str:
    """The tests that need a GPU; pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "--tb=short", "tests/test_gpu.py"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=TESTS)
    except subprocess.TimeoutExpired:
        return f"not done in {TESTS} s"
    print(done.stdout, flush=True)
    return done.stdout.strip().splitlines()[-1].strip("= ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that show that it runs; writes nothing")
    parser.add_argument("--tests", action="store_true", help="first the tests that need a GPU")
    chosen, begin = parser.parse_args(), time.monotonic()
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("gpu-check: torch sees no CUDA device here; run it on a machine with a GPU")
    tests = tested() if chosen.tests else "not run"
    bench, rows, shares = Bench(torch.device(chosen.device), TINY if chosen.tiny else Scale()), [], ""
    for line in measure(bench):
        if line[0]:
            rows.append(line)
            print(*line[:2], sep=": ", flush=True)
        shares = line[3] if not line[0] else ""
        if time.monotonic() - begin > LIMIT:
            rows.append(("stopped: no time left", "", "", ""))
        text = page(bench, rows, shares, tests)
        if not chosen.tiny:
            FILE.parent.mkdir(exist_ok=True)
            FILE.write_text(text)
        if time.monotonic() - begin > LIMIT:
            break
    print(text)


if __name__ == "__main__":
    main()
