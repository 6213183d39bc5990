"""How long a step takes and how much disk a run needs: from finished runs of the same kind, else timed on the spot."""

from __future__ import annotations

import csv
import hashlib
import json
import statistics
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from segkd.config import ROOT, RunConfig, runs_root, to_dict
from segkd.prediction import IGNORE, Prediction
from segkd.registry import UserError
from segkd.runs import Run, as_teacher, load_run
from segkd.train.loop import SNAPSHOTS
from segkd.train.runtime import computing, generator
from segkd.train.state import read_json
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

PIXELS = 2 * 128 * 256  # of a batch that a CPU is timed on, at width 1; four times as many at a quarter of the width
ALONE = ROOT / "benchmarks" / "results" / "methods.csv"  # written by benchmarks/methods.py
FEWEST = 2  # images: batch norms behind global pooling want more than one


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step without the teacher's pass, and of that pass, which a cohort shares; bytes of the run's folder."""

    own: float
    teacher: float
    folder: float
    source: str  # where the numbers come from, in words


def image_size(config: RunConfig) -> tuple[int, int]:
    """What is trained on, (h, w)."""
    return config.data.crop or config.data.size


def kind_of(config: RunConfig) -> str:
    """Runs of one kind have steps of one length: the same networks, method, image size, batch, precision and optimiser.

    Seeds, data sets, lengths and hyper-parameters may differ.
    """
    values, shape = to_dict(config), ("name", "width", "extra_channels", "grad_checkpointing")
    network = lambda part: part and {key: part["network"].get(key) for key in shape}  # noqa: E731
    schedule = {key: values["schedule"][key] for key in ("batch_size", "precision", "compile", "optimiser")}
    return json.dumps([network(values), network(values["teacher"]), schedule, image_size(config), config.method, config.variant])


def digest(config: RunConfig) -> str:
    """`kind_of` in twelve characters."""
    return hashlib.sha256(kind_of(config).encode()).hexdigest()[:12]


@lru_cache
def alone(path: Path) -> dict[str, float]:
    """Milliseconds of a step with its teacher's pass, by `digest`, of the kinds that benchmarks/methods.py measured by themselves.

    ``path``: its table, `ALONE`; nothing is known where it is not there.
    """
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {line["kind"]: float(line["ms a step"]) + float(line["ms of the teacher's pass"]) for line in csv.DictReader(file)}


def measured_times(device: str) -> dict[str, StepTime]:
    """Medians over the finished runs under `runs_root` that were trained on ``device`` ("cpu" or a GPU's name), by kind."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for path in sorted(runs_root().glob("*/result.json")):
        try:
            run = load_run(path.parent.name)
            if run.config.schedule.steps and _device(run) == device:
                result = run.result["seconds_per_step"], run.result["teacher_seconds_per_step"]
                size = sum(file.stat().st_size for file in run.path.iterdir())
                found.setdefault(kind_of(run.config), []).append((*result, float(size)))
        except (UserError, KeyError):  # a damaged or an old run tells nothing
            continue
    medians = {kind: [statistics.median(column) for column in zip(*rows)] for kind, rows in found.items()}
    return {kind: StepTime(*values, "finished runs") for kind, values in medians.items()}


def _device(run: Run) -> str:
    return read_json(run.path / "env.json", "its run is left out").get("device", "")


def timed(config: RunConfig, classes: int, device: torch.device) -> StepTime:
    """Two steps of ``config`` on noise, of which the second counts; nothing is read or written.

    On a CPU a large batch is timed as a smaller one of smaller images, and the time taken in proportion to the pixels.
    What a method learns before its first step (MasKD's masks) is left out.
    """
    small = _affordable(config) if device.type == "cpu" else config
    size, batch = image_size(small), small.schedule.batch_size
    labels = torch.randint(0, classes, (batch, *size), generator=generator("labels")).to(device)
    labels[:, 0] = IGNORE
    with computing(small.schedule.precision):
        images = torch.rand(batch, 3, *size, generator=generator("images")).to(device)
        teacher = _untrained_teacher(small, classes, device)
        trainee = Trainee(small, classes, None if teacher is None else teacher.model.info, device)
        for step in range(2):
            said, seconds = (None, 0.0) if teacher is None else _pass(teacher, images, labels, step)
            before = trainee.seconds
            trainee.train_step(images, labels, said)
    scale = _pixels(config) / _pixels(small)
    words = "timed" if small is config else f"timed, {batch} of {size[0]}x{size[1]}"
    return StepTime(scale * (trainee.seconds - before), scale * seconds, _folder_bytes(trainee), words)


def _pass(teacher: Teacher, images: Tensor, labels: Tensor, step: int) -> tuple[Prediction, float]:
    """What the teacher says, and the seconds that it took."""
    begin = time.perf_counter()
    said = teacher(images, labels, step)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return said, time.perf_counter() - begin


def _untrained_teacher(config: RunConfig, classes: int, device: torch.device) -> Teacher | None:
    if config.teacher is None:
        return None
    return as_teacher(build_network(config.teacher, classes, start=False).to(device).eval(), [config])


def _pixels(config: RunConfig) -> int:
    height, width = image_size(config)
    return config.schedule.batch_size * height * width


def _affordable(config: RunConfig) -> RunConfig:
    """The same with a batch of at most `PIXELS`, by fewer images first, then by halved sides."""
    widths = [c.network.width for c in (config, config.teacher) if c is not None]
    limit = PIXELS / max(widths)
    while _pixels(config) > limit:
        batch, (height, width) = config.schedule.batch_size, image_size(config)
        if batch > FEWEST:
            config = replace(config, schedule=replace(config.schedule, batch_size=max(batch // 2, FEWEST)))
        else:
            config = replace(config, data=replace(config.data, crop=(height // 2, width // 2)))
    return config


def _folder_bytes(trainee: Trainee) -> float:
    """Of a finished run: the network, its snapshots, and two checkpoints with the method's modules and the optimiser."""
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))  # noqa: E731
    network = size(trainee.model.state_dict().values())
    optimiser = size(value for state in trainee.optimiser.state.values() for value in state.values())
    return (1 + len(SNAPSHOTS)) * network + 2 * (network + size(trainee.modules.state_dict().values()) + optimiser)
