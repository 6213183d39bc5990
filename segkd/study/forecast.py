"""What would be trained, in which order, how long it takes and what it costs; nothing is trained or written."""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache

import pandas as pd
import torch

from segkd.config import ROOT, NetworkConfig, RunConfig, runs_root
from segkd.data import create_dataset
from segkd.models import complexity
from segkd.registry import UserError
from segkd.study.execute.jobs import Job, plan_jobs, ready_jobs, with_teachers
from segkd.study.execute.progress import in_words
from segkd.study.execute.step_times import StepTime, image_size, kind_of, measured_times, timed
from segkd.study.tables.configs import bare_network
from segkd.train.runtime import pick_device

EVALUATED = 1 / 3  # what evaluating an image costs of training on it: a pass forward of one forward and two backward


def forecast(
    configs: list[RunConfig], classes: int, workers: int, device: str, say: Callable[[str], None] = lambda text: None
) -> pd.DataFrame:
    """A row a job (a cohort, teachers first), by its beginning, as `execute` would train them with ``workers`` at a time.

    ``begin`` and ``seconds`` of the job, ``runs``, ``steps``, ``ms`` a step of the whole cohort, ``source`` of that number,
    ``flop`` of the networks' passes, ``bytes`` on disk. Seconds are those of steps and evaluations; reading images and
    starting processes come on top.
    """
    jobs = plan_jobs(configs, workers)
    times = step_times([c for job in jobs for c in job], classes, device, say)
    passes = _evaluation_times(jobs, times)
    rows = [_row(job, [times[kind_of(c)] for c in job], passes) | {"flop": operations(job, classes)} for job in jobs]
    begins = _begins(jobs, [row["seconds"] for row in rows], workers)
    columns = ["begin", "what", "seed", "runs", "steps", "ms", "source", "seconds", "flop", "bytes"]
    frame = pd.DataFrame([row | {"begin": begin} for row, begin in zip(rows, begins)], columns=columns)
    return frame.sort_values("begin", kind="stable", ignore_index=True)


def step_times(configs: list[RunConfig], classes: int, device: str, say: Callable[[str], None]) -> dict[str, StepTime]:
    """The `StepTime` of every kind of run among ``configs``: measured where there are runs, timed here where not."""
    where = pick_device(device)
    found = measured_times(torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu")
    for config in configs:
        if kind_of(config) not in found:
            say(f"no finished run of this kind, timing two steps: {_what([config])}")
            found[kind_of(config)] = timed(config, classes, where)
    return found


def _row(job: Job, times: list[StepTime], passes: dict[str, float]) -> dict:
    config, sources = job[0], dict.fromkeys(time.source for time in times)
    steps = config.schedule.steps
    step = max(time.teacher for time in times) + sum(time.own for time in times)  # one pass of the teacher for all
    return {
        "what": _what(job), "seed": config.seed, "runs": len(job), "steps": steps, "ms": 1e3 * step,
        "source": "; ".join(sources), "seconds": steps * step + sum(passes[c.id] for c in job),
        "bytes": sum(time.folder for time in times),
    }  # fmt: skip


def operations(job: Job, classes: int) -> float:
    """Floating-point operations of the networks in all steps of a cohort, two a multiply-add: what does not depend on a machine.

    Forward, and twice that backward, for each student (a label-assisted teacher has two paths); forward once for their teacher.
    """
    config = job[0]
    forward = sum(3 * (2 if c.network.extra_channels else 1) * _multiply_adds(c.network, classes, image_size(c)) for c in job)
    if config.teacher is not None:
        forward += _multiply_adds(config.teacher.network, classes, image_size(config))
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


def _evaluation_times(jobs: list[Job], times: dict[str, StepTime]) -> dict[str, float]:
    """Seconds that each run spends on validation and its final score; 0 where the data are not here."""
    fastest: dict[tuple, float] = {}  # of a network's steps: what a method adds to them costs nothing in evaluation
    key = lambda c: (c.network, image_size(c), c.schedule.batch_size)  # noqa: E731
    runs = [config for job in jobs for config in job]
    for config in runs:
        own = times[kind_of(config)].own / config.schedule.batch_size
        fastest[key(config)] = min(own, fastest.get(key(config), own))
    return {c.id: EVALUATED * fastest[key(c)] * _evaluated_images(c) for c in runs}


def _evaluated_images(config: RunConfig) -> float:
    """How many images a run is evaluated on in all, counted in images of the size that it is trained on."""
    data = config.data
    (height, width), (h, w) = data.size or image_size(config), image_size(config)
    try:
        val, final = (len(create_dataset(data.name, data.root, split)) for split in ("val", data.split))
    except UserError:
        return 0.0
    limit = data.eval_limit or max(val, final)
    rounds = config.schedule.validations if config.schedule.steps else 1
    return (rounds * min(val, limit) + min(final, limit)) * height * width / (h * w)


def _begins(jobs: list[Job], seconds: list[float], workers: int) -> list[float]:
    """When each job begins, if every worker takes the first job that is ready as soon as it is free."""
    inside = {config.id for job in jobs for config in job}
    waiting, running, done, begins, now = list(jobs), [], set(), [0.0] * len(jobs), 0.0
    while waiting:
        ready = ready_jobs(waiting, lambda config: config.id in done or config.id not in inside)
        for job in ready[: workers - len(running)]:
            number = jobs.index(job)
            begins[number] = now
            heapq.heappush(running, (now + seconds[number], number))
            waiting.remove(job)
        now, number = heapq.heappop(running)
        done |= {config.id for config in jobs[number]}
    return begins


def lines(frame: pd.DataFrame, wanted: list[RunConfig], workers: int, device: str) -> list[str]:
    """A `forecast` as text, with its totals. ``wanted``: all runs of the study, the finished ones too."""
    everything = len(with_teachers(wanted))
    if frame.empty:
        return [f"nothing to train: all {everything} runs are in {runs_root()}"]
    shown = pd.DataFrame({
        "begins after": frame["begin"].map(in_words), "what": frame["what"], "seed": frame["seed"], "runs": frame["runs"],
        "steps": frame["steps"], "ms a step": frame["ms"].map("{:.0f}".format), "from": frame["source"],
        "takes": frame["seconds"].map(in_words), "MB": (frame["bytes"] / 1e6).map("{:.1f}".format),
    })  # fmt: skip
    for column in ("begins after", "what", "from"):
        shown[column] = shown[column].str.ljust(shown[column].str.len().max())
    runs, work = int(frame["runs"].sum()), frame["seconds"].sum()
    end, unit = (frame["begin"] + frame["seconds"]).max(), "GPU" if device.startswith("cuda") else "CPU"
    free = shutil.disk_usage(ROOT).free / 1e9
    return [line.rstrip() for line in shown.to_string(index=False, justify="left").splitlines()] + [
        f"{runs} runs in {len(frame)} jobs to train, {everything - runs} are there; "
        f"about {in_words(end)} with {workers} at a time, {work / 3600:.2g} {unit} hours, "
        f"{frame['bytes'].sum() / 1e9:.2g} GB of disk ({free:.0f} GB free), {frame['flop'].sum() / 1e15:.3g} PFLOP; "
        "nothing was written"
    ]
