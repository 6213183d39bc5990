"""The report of a step that was not finite: what it was made of, and all that is needed to look at it again."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from segkd.data.sampler import batch_indices
from segkd.data.store import Packed
from segkd.registry import UserError
from segkd.train.optim import poly
from segkd.train.state import write_json, write_tensors
from segkd.train.trainee import NonFiniteStep, Trainee

REPORT, TENSORS = "failure.json", "failure.safetensors"


class RunFailed(UserError):
    """A loss or gradient was not finite: which run, step and term, and how to repeat the step."""


def write_failure(
    folder: Path, trainee: Trainee, error: NonFiniteStep, splits: tuple[Packed, Packed | None], images: Tensor, labels: Tensor
) -> str:
    """Write ``failure.json`` and ``failure.safetensors`` (batch and weights); returns one line that says what happened.

    ``splits``: what the batch was drawn from, with labels and without. The run stays as its last checkpoint has it. Numbers that JSON has no word for are "nan", "inf" and "-inf".
    """
    config, step = trainee.config, trainee.step
    counts = {"batch": config.schedule.batch_size, "unlabelled": config.unlabelled}
    weights = {f"network.{name}": value for name, value in trainee.model.state_dict().items()}
    write_tensors(folder / TENSORS, {"images": images, "labels": labels, **weights})
    report = {
        "run": config.id,
        "step": step,
        "not_finite": error.bad,
        "terms": {name: json_number(value) for name, value in error.values.items()},
        "lr": poly(config.schedule, step),
        **{key: _drawn(split, count, step, config.seed) for (key, count), split in zip(counts.items(), splits) if count},
        "gradient_norms": {layer: json_number(value) for layer, value in trainee.gradient_norms().items()},
        "begun": trainee.begun,
    }
    write_json(folder / REPORT, report)
    trainee.optimiser.zero_grad(set_to_none=True)
    return (
        f"run {config.id} stopped before the update of step {step}: {', '.join(error.bad)} not finite; "
        f"see {REPORT} in its folder, and `segkd replay {config.id}` repeats the step"
    )


def _drawn(split: Packed, count: int, step: int, seed: int) -> dict:
    """Which images of a split a batch holds."""
    indices = batch_indices(len(split), count, step, seed).tolist()
    return {"split": split.split, "indices": indices, "names": [split.names[i] for i in indices]}


def json_number(value: float) -> float | str:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else str(value)
