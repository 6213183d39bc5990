"""What a row costs beside its score: time, memory, parameters, and its gain where the baseline may train as long."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import median

import pandas as pd
import torch

from segkd.analysis.cost import CLASSES, STATED, counted
from segkd.config import RunConfig
from segkd.data.catalog import DATASETS, create_dataset
from segkd.losses.method import create_method
from segkd.losses.rows import LONGER
from segkd.prediction import NetworkInfo
from segkd.study.numbers import step_times
from segkd.study.tables.reported import network_of, reported, table_lines
from segkd.study.tables.table import Row, Table
from segkd.train.trainee import network_info

COUNTS = {"params_m": ("paper params M (recounted)", "params", 1e6), "flops_g": ("paper GMACs (recounted)", "macs_paper", 1e9)}
PRINTED = {  # metrics beside mIoU that some tables print, and the columns that show them
    "macc": "paper mAcc %", "params_m": "paper params M", "flops_g": "paper GMACs", "dtime_ms": "paper ms a step",
    "train_minutes": "paper minutes", "mkl_x100": "paper KL between draws, x 100",
}  # fmt: skip


def classes_of(dataset: str) -> int:
    """How many classes a data set has; only a described folder needs to be there."""
    return len((create_dataset(dataset) if dataset == "folder" else DATASETS.get(dataset)).classes)


def extra_parameters(config: RunConfig) -> int:
    """Parameters that the run's method trains or holds beside the student (adapters, discriminators); counted, not run."""
    classes = classes_of(config.data.name)
    student = network_info(config.network, classes)
    teacher = network_info(config.teacher.network, classes) if config.teacher else None
    return _method_parameters(config.method, json.dumps(config.hyper, sort_keys=True), student, teacher)


@lru_cache(maxsize=512)
def _method_parameters(spec: str, hyper: str, student: NetworkInfo, teacher: NetworkInfo | None) -> int:
    method = create_method(spec, **json.loads(hyper))
    with torch.device("meta"):
        modules = method.build(student, teacher)
    return sum(p.numel() for p in modules.parameters())


def step_ms(configs: Mapping[str, RunConfig], runs: Mapping[str, pd.DataFrame]) -> tuple[dict[str, float], bool]:
    """Milliseconds of a step by row, the teacher's pass included, and whether all are of steps measured by themselves.

    ``runs``: a row's `results.metrics_by_seed`, for the rows that have some. Measured by themselves (`step_times.rounds`) where any
    of these is, NaN for the others: the clock of a run also counts what else the machine did, and runs trained at different
    hours differ by more than methods do. Else all by that clock, so that one table has one clock: the median over a row's
    runs, since one beside which the machine did other work does not make a method slow.
    """
    known, kinds = step_times.rounds(step_times.ALONE), {label: step_times.digest(configs[label]) for label in runs}
    if alone := any(kind in known for kind in kinds.values()):
        return {label: median(known.get(kind, [math.nan])) for label, kind in kinds.items()}, alone
    clock = ["seconds_per_step", "teacher_seconds_per_step"]
    return {label: 1000 * float(own[clock].sum(axis=1, min_count=1).median()) for label, own in runs.items()}, alone


def equal_time_gain(own: pd.Series, base: pd.Series, longer: pd.Series, ratio: float) -> tuple[float, int]:
    """Mean gain over a baseline that trains as long as the method does, by the clock, and over how many seeds.

    ``own``, ``base``, ``longer``: scores by seed of the method, the baseline and the baseline of `LONGER` times as many
    steps. ``ratio``: the method's time a step, its teacher's pass included, over the baseline's. The baseline between
    its two lengths is interpolated linearly: an estimate. Over the longer one where the method takes longer still; NaN
    where there is none.
    """
    share = min(max(ratio - 1, 0) / (LONGER - 1), 1)
    gains = (own - (base + share * (longer - base))).dropna()
    return (float(gains.mean()) if len(gains) else math.nan), len(gains)


def printed_costs(table: Table, row: Row) -> dict[str, float]:
    """What the paper prints of a row beside its mIoU, and our count of parameters and multiply-adds by its rule."""
    found: dict[str, float] = {}
    printed = {line["metric"] for line in table_lines(table.source["paper"], table.source["table"])} if row.printed else ()
    for metric in (metric for metric in PRINTED if metric in printed):
        found[PRINTED[metric]] = value = reported(table, row, metric)
        if metric in COUNTS:
            column, key, unit = COUNTS[metric]
            found[column] = math.nan if math.isnan(value) else _counted(table, row)[key] / unit
    return found


def _counted(table: Table, row: Row) -> dict[str, int]:
    """Counts of the paper's network at full size, on the image size and class count that the table states."""
    source = {**table.source, **row.source}
    assisted = row.role == "label_teacher"
    printed = source["teacher"] if row.role != "student" else source["student"]
    data = source["dataset"]
    return counted(network_of(printed), CLASSES[data], 3 + assisted, STATED[data])
