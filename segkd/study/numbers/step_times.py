"""How long a step takes: which runs have steps of one length, and those that were measured by themselves."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch

from segkd.config import ROOT, RunConfig, to_dict
from segkd.runs import as_teacher
from segkd.train.trainee import Trainee, build_network

ALONE = ROOT / "benchmarks" / "results" / "methods.csv"  # written by benchmarks/methods.py


def train_size(config: RunConfig) -> tuple[int, int]:
    """What is trained on, (h, w)."""
    return config.data.crop or config.data.size


def kind_of(config: RunConfig) -> str:
    """Runs of one kind have steps of one length: the same networks, method, image size, batch, precision and optimiser.

    Seeds, data sets, lengths and hyper-parameters may differ.
    """
    values, shape = to_dict(config), ("name", "width", "extra_channels", "grad_checkpointing")
    network = lambda part: part and {key: part["network"].get(key) for key in shape}  # noqa: E731
    schedule = {key: values["schedule"][key] for key in ("batch_size", "precision", "compile", "optimiser")}
    schedule["batch_size"] += config.unlabelled
    return json.dumps([network(values), network(values["teacher"]), schedule, train_size(config), config.method, config.variant])


def digest(config: RunConfig) -> str:
    """`kind_of` in twelve characters."""
    return hashlib.sha256(kind_of(config).encode()).hexdigest()[:12]


def on_noise(configs: list[RunConfig], classes: int, device: torch.device) -> Iterator[tuple[RunConfig, Callable, Callable]]:
    """Each run with two calls to time: a training step without its teacher's pass, and that pass (without a teacher nothing).

    Networks are as they start, images noise of the run's shape; runs with one kind of teacher share it, as in a cohort.
    """
    taught: dict[str, list[RunConfig]] = {}
    for config in configs:
        if config.teacher is not None:
            taught.setdefault(kind_of(config.teacher), []).append(config)
    build = lambda config: build_network(config, classes, start=False).to(device).eval()  # noqa: E731
    teachers = {kind: as_teacher(build(group[0].teacher), group) for kind, group in taught.items()}
    for config in configs:
        draws, count, size = torch.Generator().manual_seed(0), config.schedule.batch_size + config.unlabelled, train_size(config)
        images = torch.rand(count, 3, *size, generator=draws).to(device)
        labels = torch.randint(0, classes, (count, *size), generator=draws).to(device)
        teacher = teachers[kind_of(config.teacher)] if config.teacher else None
        teach = partial(teacher, images, labels, 0) if teacher else lambda: None
        trainee = Trainee(config, classes, teacher and teacher.model.info, device)
        yield config, partial(trainee.train_step, images, labels, teach()), teach


@lru_cache
def rounds(path: Path) -> dict[str, tuple[float, ...]]:
    """Milliseconds of a step with its teacher's pass in each round of benchmarks/methods.py, by `digest`.

    In a round every kind of a profile takes one step, so that rounds pair the kinds as seeds pair runs. ``path``: its
    table, `ALONE`; nothing is known where it is not there.
    """
    lines = csv.DictReader(path.read_text().splitlines()) if path.exists() else ()
    return {line["kind"]: tuple(map(float, line["rounds"].split())) for line in lines}
