"""What the tests of training share: small configs, runs that are stopped, what must be the same, and splits without files."""

import dataclasses

import numpy as np
import pytest
import torch

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.prediction import IGNORE
from segkd.runs import Run

CPU = torch.device("cpu")
DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
NETWORK = NetworkConfig("pspnet/resnet18", 0.125)
SCHEDULE = Schedule(steps=6, batch_size=2, lr=0.02, validations=2)
PLAIN = RunConfig(DATA, NETWORK, SCHEDULE)
TEACHER = RunConfig(DATA, dataclasses.replace(NETWORK, width=0.1875), dataclasses.replace(SCHEDULE, steps=3))
LABEL_TEACHER = RunConfig(DATA, dataclasses.replace(NETWORK, extra_channels=1), SCHEDULE, method="lad")
STATEFUL = "kd+skd+cirkd+maskd+mgd+rdd"  # a discriminator with its optimiser, memory banks, learnt and random masks, adapters


def student(method: str, **changes) -> RunConfig:
    """A run of a method, with the teacher that it needs; "lad" is that of the label-assisted teacher."""
    teacher = None if method == "baseline" else LABEL_TEACHER if method.startswith("lad") else TEACHER
    config = LABEL_TEACHER if method == "lad" else dataclasses.replace(PLAIN, method=method, teacher=teacher)
    return dataclasses.replace(config, **changes)


def scheduled(config: RunConfig, **changes) -> RunConfig:
    """The same config with another schedule."""
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, **changes))


def batch(seed: int = 0, classes: int = 5):
    """Images and labels of a step."""
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 48, 64, generator=draws), torch.randint(0, classes, (2, 48, 64), generator=draws)


class Stop(Exception):
    """Ends a run from within its report."""


def stop_at(step: int, run: str | None = None):
    """A report that stops a run (the first that comes there, or ``run``) after a step."""

    def report(run_id: str, row: dict[str, float]) -> None:
        if row["step"] == step and run in (None, run_id):
            raise Stop

    return report


def weights(run: Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def assert_same(ours, theirs, where: str, rel: float = 0.0) -> None:
    """Equal types, keys and lengths; equal bits, or tensors within ``rel`` of the largest and numbers within it."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        [assert_same(ours[key], theirs[key], f"{where}/{key}", rel) for key in ours]
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        [assert_same(*pair, f"{where}/{number}", rel) for number, pair in enumerate(zip(ours, theirs))]
    elif isinstance(ours, torch.Tensor) and rel and ours.numel():
        gap, largest = (ours.double() - theirs.double()).abs().max(), theirs.double().abs().max()
        assert gap <= rel * largest + 1e-12, (where, gap.item(), largest.item())
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), where
    else:
        assert ours == (pytest.approx(theirs, rel=rel, abs=1e-12) if rel and isinstance(ours, float) else theirs), where


class Split:
    """Random images of these sizes: of one size, or each of its own."""

    def __init__(self, sizes: list[tuple[int, int]], classes: int = 5):
        draws = torch.Generator().manual_seed(0)
        draw = lambda high, *shape: torch.randint(0, high, shape, generator=draws, dtype=torch.uint8)
        self.size, self.num_classes = None if len(set(sizes)) > 1 else sizes[0], classes
        self.sizes = None if self.size else np.array(sizes)
        self.items = [(draw(256, *size, 3), draw(classes + 1, *size)) for size in sizes]
        for _, label in self.items:
            label[label == classes] = IGNORE

    def __len__(self):
        return len(self.items)

    def take(self, index):
        high, wide = np.array([self.items[i][1].shape for i in index]).max(0)
        images = torch.zeros(len(index), high, wide, 3, dtype=torch.uint8)
        labels = torch.full((len(index), high, wide), IGNORE, dtype=torch.uint8)
        for place, i in enumerate(index):
            (h, w), (image, label) = self.items[i][1].shape, self.items[i]
            images[place, :h, :w], labels[place, :h, :w] = image, label
        return images, labels, None if self.size else torch.from_numpy(self.sizes[index])
