"""Trains a list of runs: teachers first, cohorts together, one process a device or CPU core, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial

from segkd.config import RunConfig
from segkd.registry import UserError, unknown
from segkd.runs import Run, find, run_cohort
from segkd.study.execute.jobs import Job, carry_out, plan_jobs, step_cost, with_teachers
from segkd.study.execute.progress import Progress
from segkd.study.execute.ray_cluster import cluster_slots, train_on_ray
from segkd.train.failure import RunFailed

EXECUTORS = ("processes", "ray")


def execute(
    configs: list[RunConfig], devices: list[str] | None = None, executor: str = "processes", resources: str | None = None
) -> list[Run]:
    """Train what is missing and return all runs in the order given.

    RunFailed, once all else is done, if some stopped at a step that was not finite; UserError if a worker was killed.

    ``devices``: one worker process each (default: one per CPU core, or per GPU). ``executor="ray"``: on the machines of a
    Ray cluster instead, where each cohort takes ``resources`` such as "cpu=1,gpu=0.5" (see `ray_cluster.parse_resources`).
    """
    check_executor(executor, devices, resources)
    if all(find(config).done for config in with_teachers(configs).values()):
        return [find(config) for config in configs]
    devices = devices or default_devices()
    slots = cluster_slots(resources) if executor == "ray" else len(devices)
    jobs = plan_jobs(configs, slots)
    runs = [c for job in jobs for c in job]
    progress = Progress(sum(c.schedule.steps * step_cost(c) for c in runs), len(runs))
    try:
        if executor == "ray":
            train_on_ray(jobs, resources, progress)
        else:
            _train_in_processes(jobs, devices, progress)
    finally:
        progress.close()
    return [find(config) for config in configs]


def check_executor(executor: str, devices: list[str] | None, resources: str | None) -> None:
    """UserError for an unknown executor, and for what the other one takes."""
    if executor not in EXECUTORS:
        raise unknown("executor", executor, EXECUTORS)
    if executor == "processes" and resources is not None:
        raise UserError(f"resources '{resources}' are for executor=ray; processes take devices")
    if executor == "ray" and devices is not None:
        raise UserError(f"devices {','.join(devices)} are for executor=processes; a Ray cluster gives them out by resources")


def default_devices() -> list[str]:
    """All CUDA devices, or as many CPU workers as there are cores."""
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(count)] if count else ["cpu"] * len(os.sched_getaffinity(0))


def _train_in_processes(jobs: list[Job], devices: list[str], progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    messages, free = context.Queue(), context.Queue()
    for device in devices:
        free.put(device)
    running: dict[Future, Job] = {}
    pool = ProcessPoolExecutor(min(len(devices), len(jobs)), context, _start_worker, (messages, free, os.getpid()))

    def ended(futures: list[Future]) -> set[Future]:
        found, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
        with suppress(queue.Empty):
            while True:
                progress.step(*messages.get_nowait())
        return found

    try:
        begin, finish = partial(pool.submit, _work), partial(_report_done, progress)
        carry_out(jobs, running, begin, ended, finish, lambda config: find(config).done, len(devices))
        pool.shutdown()
    except RunFailed:
        pool.shutdown()
        raise
    except BrokenProcessPool as error:
        lost = ", ".join(c.id for job in running.values() for c in job)
        raise UserError(
            f"a worker process was killed (out of memory?) while these were trained: {lost}; "
            "finished runs and checkpoints are kept, the same command goes on"
        ) from error
    except BaseException:  # an error in a worker or Ctrl-C: stop the others now, their checkpoints stay
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


def _report_done(progress: Progress, future: Future, job: Job) -> list[str]:
    """Tell which runs of a job are done; returns what is to be said of those that failed."""
    failures = []
    try:
        future.result()
    except RunFailed as error:
        failures.append(str(error))
    for config in job:
        if find(config).done:
            progress.finished(config.id, find(config).result["miou"])
    return failures


class _Reporter:
    """Runs inside a worker: sends steps to the parent twice a second, and stops the worker if the parent is gone."""

    def __init__(self, job: Job, messages: multiprocessing.Queue, parent: int):
        self.job = {c.id: c for c in job}
        self.messages, self.parent = messages, parent
        self.work, self.images, self.last = 0.0, 0, 0.0

    def __call__(self, run: str, row: dict[str, float]) -> None:
        config = self.job[run]  # teachers are finished before a job starts
        self.work += step_cost(config)
        self.images += config.schedule.batch_size
        if time.monotonic() - self.last > 0.5:
            if os.getppid() != self.parent:
                os._exit(1)  # the parent was killed: leave the work to whoever resumes it
            self.messages.put((run, row, config.schedule.steps, self.work, self.images))
            self.work, self.images, self.last = 0.0, 0, time.monotonic()


def _start_worker(messages: multiprocessing.Queue, free: multiprocessing.Queue, parent: int) -> None:
    global _worker
    _worker = (messages, free.get(), parent)


def _work(job: Job) -> None:
    messages, device, parent = _worker
    run_cohort(job, device, _Reporter(job, messages, parent))
