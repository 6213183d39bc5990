"""What would be trained, how long it takes and what it costs; nothing is trained or written."""

from __future__ import annotations

import shutil
import statistics
from collections import Counter
from contextlib import suppress
from functools import cache

import pandas as pd

from segkd.config import ROOT, NetworkConfig, RunConfig, runs_root
from segkd.models import complexity
from segkd.registry import UserError
from segkd.run_list import left_aligned
from segkd.runs import load_run
from segkd.study.execute.jobs import Job, plan_jobs, with_teachers
from segkd.study.execute.progress import in_words
from segkd.study.numbers.step_times import kind_of, train_size
from segkd.train.trainee import bare_network

OF_THE_KIND, BY_RATE = "finished runs of the kind", "operations"


def forecast(configs: list[RunConfig], classes: int, workers: int) -> pd.DataFrame:
    """A row a job (a cohort, teachers first) in the order in which `execute` begins them, ``workers`` at a time.

    ``runs``, ``steps`` and ``flop`` of the job, and its ``seconds`` of training steps: by finished runs of the same kind
    under `runs_root`, else by the rate at which the runs there did their operations (``source`` says which); NaN where
    none is finished. A teacher's pass counts once a cohort. Validation comes on top.
    """
    step, rate = speeds(classes)
    lines = []
    for job in plan_jobs(configs, workers):
        steps, flop = job[0].schedule.steps, operations(job, classes)
        known = [step.get(kind_of(config)) for config in job]
        if all(known):
            seconds, source = steps * (sum(own for own, _ in known) + max(teacher for _, teacher in known)), OF_THE_KIND
        else:
            seconds, source = flop / rate, BY_RATE if rate == rate else "no finished run"
        lines.append((_what(job), job[0].seed, len(job), steps, flop, seconds, source))
    return pd.DataFrame(lines, columns=["what", "seed", "runs", "steps", "flop", "seconds", "source"])


def speeds(classes: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Medians over the runs under `runs_root`: seconds of a step and of the teacher's pass by `kind_of`; FLOP a second (NaN: no run)."""
    times: dict[str, list[tuple[float, float]]] = {}
    rates = []
    for path in sorted(runs_root().glob("*/result.json")):
        with suppress(UserError, KeyError):  # a damaged or an old run tells nothing
            run = load_run(path.parent.name)
            time = run.result["seconds_per_step"], run.result["teacher_seconds_per_step"]
            if run.config.schedule.steps:
                rates.append(operations([run.config], classes) / (run.config.schedule.steps * sum(time)))
                times.setdefault(kind_of(run.config), []).append(time)
    median = {kind: tuple(statistics.median(column) for column in zip(*rows)) for kind, rows in times.items()}
    return median, statistics.median(rates) if rates else float("nan")


def operations(job: Job, classes: int) -> float:
    """Floating-point operations of the networks in all steps of a cohort, two a multiply-add: what does not depend on a machine.

    Forward, and twice that backward, for each student (a label-assisted teacher has two paths); forward once for their teacher.
    """
    config = job[0]
    forward = sum(3 * (2 if c.network.extra_channels else 1) * _multiply_adds(c.network, classes, train_size(c)) for c in job)
    if config.teacher is not None:
        forward += _multiply_adds(config.teacher.network, classes, train_size(config))
    return 2.0 * config.schedule.steps * config.schedule.batch_size * forward


@cache
def _multiply_adds(network: NetworkConfig, classes: int, size: tuple[int, int]) -> int:
    """Of one pass of one image, counted without computing it."""
    return complexity(bare_network(network, classes), size)["macs"]


def _what(job: Job) -> str:
    """Network and methods of a cohort: ``pspnet/resnet18 x0.125: cwd, hwd (3)``."""
    methods = Counter(config.method for config in job)
    network = job[0].network
    name = f"{network.name}{'' if network.width == 1 else f' x{network.width:g}'}{' + label' * bool(network.extra_channels)}"
    return f"{name}: {', '.join(method if count == 1 else f'{method} ({count})' for method, count in methods.items())}"


def forecast_lines(frame: pd.DataFrame, wanted: list[RunConfig], workers: int) -> list[str]:
    """A `forecast` as text, with its totals. ``wanted``: all runs of the study, the finished ones too."""
    everything = len(with_teachers(wanted))
    if frame.empty:
        return [f"nothing to train: all {everything} runs are in {runs_root()}"]
    takes = frame["seconds"].map(lambda s: in_words(s) if s == s else "?")
    shown = frame[["what", "seed", "runs", "steps"]].assign(PFLOP=(frame["flop"] / 1e15).map("{:.3g}".format), takes=takes, by=frame["source"])
    runs, work = int(frame["runs"].sum()), frame["seconds"].sum(skipna=False)
    time = f"about {in_words(work / workers)} of steps with {workers} at a time" if work == work else "time unknown until one run is finished"
    return left_aligned(shown, "what", "by") + [
        f"{runs} runs in {len(frame)} jobs to train, {everything - runs} are there; {time}, "
        f"{frame['flop'].sum() / 1e15:.3g} PFLOP, {shutil.disk_usage(ROOT).free / 1e9:.0f} GB of disk are free; nothing was written"
    ]
