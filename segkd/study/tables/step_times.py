"""How long a step takes: which runs have steps of one length, and those that were measured by themselves."""

from __future__ import annotations

import csv
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from segkd.config import ROOT, RunConfig, to_dict

ALONE = ROOT / "benchmarks" / "results" / "methods.csv"  # written by benchmarks/methods.py


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
    schedule["batch_size"] += config.unlabelled
    return json.dumps([network(values), network(values["teacher"]), schedule, image_size(config), config.method, config.variant])


def digest(config: RunConfig) -> str:
    """`kind_of` in twelve characters."""
    return hashlib.sha256(kind_of(config).encode()).hexdigest()[:12]


@lru_cache
def rounds(path: Path) -> dict[str, tuple[float, ...]]:
    """Milliseconds of a step with its teacher's pass in each round of benchmarks/methods.py, by `digest`.

    In a round every kind of a profile takes one step, so that rounds pair the kinds as seeds pair runs. ``path``: its
    table, `ALONE`; nothing is known where it is not there.
    """
    lines = csv.DictReader(path.read_text().splitlines()) if path.exists() else ()
    return {line["kind"]: tuple(map(float, line["rounds"].split())) for line in lines}
