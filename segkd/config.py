"""What a run is: frozen, strict dataclasses, and the stable id that follows from their values."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from segkd.fields import Count, Fraction, Momentum, NotNegative, Positive, That, Whole, check, fit_all, hints_of

Size = tuple[Count, Count]  # (H, W) in pixels
# Fields that came after the first results: runs that do not use them keep their ids.
LATER = {
    "teacher_classes": "own", "checkpoint_hash": "", "continuous_scale": False, "cat_max_ratio": 1.0, "photometric": False,
    "content": "", "precision": "float32", "compile": False, "output_stride": 8, "head_channels": None,
    "average": 0.0, "rounding": 0, "unlabelled": 0,
}  # fmt: skip
# No part of an id: where files lie (the hash of their content, beside it, is), and what changes no value.
PLACES = ("checkpoint", "root", "grad_checkpointing")
ROOT = Path(__file__).parents[1]  # the checkout: notebooks, data, reports and runs lie here


def runs_root() -> Path:
    """Where runs live: $SEGKD_RUNS, else ``runs`` in the checkout, whatever the working directory."""
    return Path(os.environ.get("SEGKD_RUNS") or ROOT / "runs")


class Checked:
    """A config whose fields hold what is declared beside them, however it was made; UserError otherwise."""

    def __post_init__(self):
        where = type(self).__name__.removesuffix("Config").lower()
        for name, hint in hints_of(type(self)).items():
            check(getattr(self, name), hint, f"{where}.{name}")


@dataclass(frozen=True)
class DataConfig(Checked):
    """A data set. ``size`` (H, W) is what is stored and evaluated (None: the images' own), ``crop`` what is trained on (None: all)."""

    name: str = "scenes"
    size: Size | None = (96, 128)
    crop: Size | None = None
    scale: Annotated[tuple[Positive, Positive], That(lambda x: x[0] <= x[1], "in order")] = (0.5, 2.0)  # random scale of the papers' protocols (methods.md 2.1)
    train_limit: Count | None = None  # so many images of a split, evenly spaced; None = all
    eval_limit: Count | None = None
    split: Literal["test", "val"] = "test"  # the declared split: its score is the result
    root: str | None = None  # where the set lies; None: under $SEGKD_DATA or data/raw
    content: str = ""  # of a described folder, `segkd.data.readers.folder.content`: another folder is another run
    continuous_scale: bool = False  # these three are mmseg's augmentation; see segkd/data/augment.py for who uses what
    cat_max_ratio: Annotated[float, That(lambda x: 0 < x <= 1, "> 0 and <= 1")] = 1.0  # a crop is drawn again while one class fills so much of it; mmseg 0.75, 1 is no cap
    photometric: bool = False  # brightness, contrast, saturation and hue


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """A network by name (``arch/encoder``), size and start."""

    name: str = "deeplabv3/resnet18"
    width: Positive = 1.0
    weights: str | None = None
    extra_channels: Whole = 0  # 1 for a label-assisted teacher
    output_stride: Literal[8, 16, 32] = 8  # pixels of the image per cell of the encoder's last map
    head_channels: Count | None = None  # of the head; None: the papers' times ``width``
    checkpoint: str | None = None  # file of a whole network to start from; with 0 steps the run is that network
    checkpoint_hash: str = ""  # its `segkd.models.weights.content_hash`: another file is another run
    grad_checkpointing: bool = False  # less memory, a longer step, the same run

    @property
    def label(self) -> str:
        """The network in words: its name, and its size where that is not the papers'."""
        sizes = {"width": (self.width, 1), "output stride": (self.output_stride, 8), "head": (self.head_channels, None)}
        changed = ", ".join(f"{key} {value:g}" for key, (value, usual) in sizes.items() if value != usual)
        return self.name + (f" ({changed})" if changed else "")


@dataclass(frozen=True)
class Schedule(Checked):
    """SGD with momentum under poly decay, as in all four papers, or AdamW; the same for every method of a study."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    steps: Whole = 40000  # 0: the network as it starts
    batch_size: Count = 16
    lr: Positive = 0.02
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 1e-4
    power: NotNegative = 0.9
    warmup: Fraction = 0.0  # of the steps, over which the learning rate rises
    aux_weight: NotNegative = 0.4
    validations: Count = 10
    precision: Literal["float32", "tf32", "bf16", "float64"] = "float32"  # tf32: products and convolutions, on a GPU; bf16: forward passes in training alone; float64: all of it, the same numbers on any CPU
    compile: bool = False  # the student through torch.compile, on a GPU as CUDA graphs: the same up to rounding
    average: Fraction = 0.0  # of the steps, the last ones, over which weights are averaged: their mean is validated and is the result


@dataclass(frozen=True)
class RunConfig(Checked):
    """One training. A teacher is itself a run, so a study is a graph of configs."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: Schedule = field(default_factory=Schedule)
    method: str = "baseline"
    hyper: dict[str, Any] = field(default_factory=dict)
    variant: str = "paper"
    seed: Annotated[int, That(lambda x: 0 <= x < 2**63, ">= 0 and < 2**63")] = 0
    teacher: RunConfig | None = None
    teacher_classes: Literal["own", "shuffled"] = "own"  # "shuffled": a control, in which the teacher's classes trade places
    rounding: Whole = 0  # k: the k-th copy, whose start weights are off by what rounding does (segkd/train/trainee.py)
    unlabelled: Whole = 0  # so many images of the split "unlabelled" in each batch, beside schedule.batch_size with labels

    @cached_property  # pages look runs up thousands of times
    def id(self) -> str:
        """``<dataset>-<network>-<method>-s<seed>-<hash8>`` in [a-z0-9._-]; the hash covers every value."""
        digest = hashlib.sha256(json.dumps(_identity(to_dict(self)), sort_keys=True).encode()).hexdigest()[:8]
        network = self.network.name if self.network.width == 1.0 else f"{self.network.name}-w{self.network.width:g}"
        text = f"{self.data.name}-{network}-{self.method}-s{self.seed}-{digest}".lower()
        return re.sub(r"[^a-z0-9._-]", "_", text.replace("/", "_").replace("+", "."))


def _identity(values: dict) -> dict:
    """The values that make the id: none of PLACES, and fields of LATER only where they are not at their default."""
    found = {key: _identity(value) if isinstance(value, dict) else value for key, value in values.items()}
    kept = {key: value for key, value in found.items() if key not in PLACES}
    return {key: value for key, value in kept.items() if key not in LATER or value != LATER[key]}


def id_differences(values: dict, others: dict, where: str = "") -> list[str]:
    """Where two runs' values make another id of them: ``schedule.lr is 0.1 instead of 0.02`` (first, then second)."""
    ours, theirs, found = _identity(values), _identity(others), []
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += id_differences(one, other, f"{where}{key}.")
        elif one != other:
            found.append(f"{where}{key} is {json.dumps(one)} instead of {json.dumps(other)}")
    return found


def to_dict(config: Any) -> dict:
    """A config as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(values: dict) -> RunConfig:
    """The config that ``to_dict`` wrote. Unknown keys and values that do not fit are a UserError that names the key."""
    return RunConfig(**fit_all(values, hints_of(RunConfig), "key", "config."))
