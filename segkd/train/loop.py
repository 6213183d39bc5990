"""The one training loop: a cohort of runs that share data, seed, schedule and teacher steps together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from segkd.config import RunConfig
from segkd.data.augment import augment
from segkd.data.resident import take
from segkd.data.sampler import batch_indices, shard
from segkd.data.store import Packed
from segkd.losses.context import TrainingData
from segkd.losses.method import TeacherKind
from segkd.metrics import scores
from segkd.prediction import Prediction
from segkd.registry import UserError
from segkd.train.ahead import ahead
from segkd.train.clock import timed
from segkd.train.evaluate import evaluate
from segkd.train.failure import write_failure
from segkd.train.processes import from_first, is_first, own_shard, rank, world_size
from segkd.train.runtime import generator
from segkd.train.state import load_checkpoint, save_checkpoint, write_rows, write_tensors
from segkd.train.teacher import Teacher
from segkd.train.trainee import NonFiniteStep, Trainee

Report = Callable[[str, dict[str, float]], None]  # run id and its step's row: step, lr, loss, every term
CHECKPOINT_SECONDS = float(os.environ.get("SEGKD_CHECKPOINT_SECONDS") or 30)  # fewer where machines may be taken away
CPU = torch.device("cpu")
SNAPSHOTS = (10, 25, 50)  # percent of its steps after which a run keeps its network
SNAPSHOT = "snapshot-{:03d}.safetensors"


class OutOfTime(Exception):
    """Raised by a report after a step: the runs of its cohort are checkpointed as they are and left."""


@dataclass
class Cohort:
    """Runs that may step together, their folders, and the teacher that they share (None: no teacher).

    ``unlabelled``: the images that runs of `RunConfig.unlabelled` see beside. ``environment``: what is recorded of this process; its "teacher" and "data" must stay the same for a run.
    """

    configs: list[RunConfig]
    folders: list[Path]
    train: Packed
    val: Packed
    teacher: Teacher | None
    device: torch.device
    report: Report = lambda run, row: None
    environment: dict = field(default_factory=dict)
    unlabelled: Packed | None = None
    last_saved: float = field(default_factory=time.monotonic)


def train_cohort(cohort: Cohort) -> list[Trainee]:
    """Train every run of the cohort to its last step, resuming from its checkpoints; returns the trainees.

    A run gives the same bits alone or in any cohort: batch, augmentation, label noise and dropout are functions of
    (seed, step), and the runs share nothing but the batch and the teacher's prediction. One whose step is not finite
    stops there with its ``failure`` set; the others go on.
    """
    trainees = [start(config, folder, cohort) for config, folder in zip(cohort.configs, cohort.folders)]
    steps = cohort.configs[0].schedule.steps
    if steps == 0:  # an untrained network: a control
        for trainee in trainees:
            _validate(trainee, cohort.val)
    try:
        with ahead(lambda step: own_batch(cohort, step), steps) as batches:
            for step in range(min(t.step for t in trainees), steps):
                active = [t for t in trainees if t.step == step and t.failure is None]  # after a crash some may be ahead of others
                if active:
                    _cohort_step(cohort, active, step, batches(step))
                    if time.monotonic() - cohort.last_saved > CHECKPOINT_SECONDS:
                        _save(cohort, trainees)
    except OutOfTime:
        _save(cohort, trainees)
        raise
    _save(cohort, trainees)
    return trainees


def start(config: RunConfig, folder: Path, cohort: Cohort) -> Trainee:
    """A run as its newest checkpoint left it, or before its first step."""
    info = None if cohort.teacher is None else cohort.teacher.model.info
    shard = own_shard(config.schedule.batch_size + config.unlabelled)
    trainee = Trainee(config, cohort.train.num_classes, info, cohort.device, shard)
    if is_first():
        _begin(trainee, folder, cohort)
    if shard is not None:  # nobody but the first looks into the folder: another machine may still see an older state of it
        state = from_first(trainee.state)
        if not is_first():
            trainee.load_state(state)
    return trainee


def _begin(trainee: Trainee, folder: Path, cohort: Cohort) -> None:
    config, state = trainee.config, load_checkpoint(folder)
    if state is not None:
        _resume(trainee, state, cohort.environment)
    elif cohort.teacher is not None:
        batch = lambda step: training_batch(cohort.train, config, step, cohort.device, unlabelled=cohort.unlabelled)  # noqa: E731
        trainee.prepare(cohort.teacher, TrainingData(config.schedule.steps, batch))
    trainee.begun.append({"step": trainee.step, **cohort.environment})


def _resume(trainee: Trainee, state: dict, environment: dict) -> None:
    """Take over a checkpoint; UserError if it is of other code, or if the run had another teacher or other data so far."""
    run = trainee.config.id
    try:
        trainee.load_state(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"run {run}: its checkpoint does not fit this version of the code ({reason}); "
            "finish it with the versions in its env.json, or delete its folder to begin anew"
        ) from error
    before = trainee.begun[-1] if trainee.begun else {}
    for key, words in (("teacher", "the weights of its teacher"), ("data", "its training images")):
        if key in before and before[key] != environment.get(key):
            raise UserError(
                f"run {run}: {words} are not those of its first {trainee.step} steps; "
                "put the old ones back, or delete this run's folder to begin anew"
            )


def training_batch(
    packed: Packed, config: RunConfig, step: int, device: torch.device = CPU, rank: int = 0, world_size: int = 1,
    unlabelled: Packed | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images (B, 3, h, w) in [0, 1] and labels (B, h, w) of a step on ``device``: a function of (data, seed, step, rank).

    ``rank`` of ``world_size`` processes gets its shard of the batch; an image is cropped alike whoever gets it. Those with
    labels come first and are the same whatever stands behind them, which is `RunConfig.unlabelled` images of ``unlabelled``.
    """
    data, count = config.data, config.schedule.batch_size
    first, end = shard(count + config.unlabelled, rank, world_size)
    parts = []
    for split, total, begin, *key in ((packed, count, 0), (unlabelled, config.unlabelled, count, "unlabelled")):
        rows = slice(max(first - begin, 0), min(end - begin, total))
        if rows.start < rows.stop:
            images, labels, sizes = take(split, batch_indices(len(split), total, step, config.seed)[rows], device)
            parts.append(augment(
                images, labels, generator(config.seed, step, "augment", *key), data.crop or packed.size, data.scale,
                continuous=data.continuous_scale, cat_max_ratio=data.cat_max_ratio, photometric=data.photometric,
                sizes=sizes, part=(rows.start, total),
            ))  # fmt: skip
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts)))


def own_batch(cohort: Cohort, step: int) -> tuple[Tensor, Tensor]:
    """This process's shard of the cohort's `training_batch`; all its runs have the same."""
    return training_batch(cohort.train, cohort.configs[0], step, cohort.device, rank(), world_size(), cohort.unlabelled)


def taught(cohort: Cohort, active: list[Trainee], step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Prediction | None]:
    """What the runs see in a step: its `own_batch` as it is given, and the teacher's prediction if there is one."""
    if cohort.teacher is None:
        return images, labels, None
    with timed(*(trainee.teacher_time for trainee in active)):
        prediction = cohort.teacher(images, labels, step, active[0].shard)
    return images, labels, prediction


def _cohort_step(cohort: Cohort, active: list[Trainee], step: int, batch: tuple[Tensor, Tensor]) -> None:
    images, labels, prediction = taught(cohort, active, step, *batch)
    for trainee in active:
        try:
            row = trainee.train_step(images, labels, prediction)
        except NonFiniteStep as error:
            _fail(cohort, trainee, error, images, labels)
            continue
        if trainee.step % max(1, trainee.config.schedule.steps // 50) == 0:
            trainee.rows.append({"kind": "train", **row})
        _validate(trainee, cohort.val)  # before the report, which may be out of time
        _keep_snapshot(trainee, cohort.folders[cohort.configs.index(trainee.config)])
        cohort.report(trainee.config.id, row)


def _fail(cohort: Cohort, trainee: Trainee, error: NonFiniteStep, images: Tensor, labels: Tensor) -> None:
    """Stop the run; the report holds the whole batch. All processes come here, since terms and gradients are sums of theirs."""
    trainee.failure, shard = str(error), trainee.shard
    if shard is not None:
        images, labels = shard.gather(images), shard.gather(labels)
    if is_first():
        folder = cohort.folders[cohort.configs.index(trainee.config)]
        trainee.failure = write_failure(folder, trainee, error, (cohort.train, cohort.unlabelled), images, labels)


def validation_steps(config: RunConfig) -> set[int]:
    """Steps after which a run is validated: evenly spaced, the last one among them."""
    schedule = config.schedule
    return {round(schedule.steps * k / schedule.validations) for k in range(1, schedule.validations + 1)}


def input_kind(trainee: Trainee) -> TeacherKind | None:
    """How a trained network is fed at evaluation: a label-assisted teacher gets the noised label, as in the paper."""
    return trainee.method.teacher_kind if trainee.label_assisted else None


def _validate(trainee: Trainee, val: Packed) -> None:
    config = trainee.config
    if trainee.step in validation_steps(config):
        counts = evaluate(trainee.scored, val, input_kind(trainee), config.seed)
        found = scores(counts)
        trainee.rows.append({"kind": "val", "step": trainee.step, "miou": found["miou"], "iou": found["iou"]})


def _keep_snapshot(trainee: Trainee, folder: Path) -> None:
    """The network half-way, for the maps over training (RDD Figs. 1, 4). Written before the checkpoint of its step."""
    steps = trainee.config.schedule.steps
    for percent in SNAPSHOTS:
        if is_first() and trainee.step == max(1, round(steps * percent / 100)):
            write_tensors(folder / SNAPSHOT.format(percent), trainee.model.state_dict())


def _save(cohort: Cohort, trainees: list[Trainee]) -> None:
    if not is_first():
        return
    for trainee, folder in zip(trainees, cohort.folders):
        if trainee.failure is not None:  # its last checkpoint is of before the failure, and stays
            continue
        save_checkpoint(folder, trainee.state())
        write_rows(folder / "metrics.jsonl", trainee.rows)
    cohort.last_saved = time.monotonic()
