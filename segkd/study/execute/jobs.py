"""What there is to train, in jobs: cohorts whose teachers come first. Whoever trains them takes the jobs that are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from segkd.config import RunConfig
from segkd.runs import cohort_key, find
from segkd.train.failure import RunFailed

Job = list[RunConfig]


def with_teachers(configs: Iterable[RunConfig]) -> dict[str, RunConfig]:
    """Every run that is needed, by id, each teacher before its students."""
    needed: dict[str, RunConfig] = {}
    for config in configs:
        if config.teacher is not None:
            needed.update({k: v for k, v in with_teachers([config.teacher]).items() if k not in needed})
        needed.setdefault(config.id, config)
    return needed


def plan_jobs(configs: Iterable[RunConfig], workers: int) -> list[Job]:
    """Cohorts of unfinished runs, each at most 1/workers of its group, so that all workers have something to do.

    Teachers go alone and first: others wait for them.
    """
    missing = [c for c in with_teachers(configs).values() if not find(c).done]
    teachers = {c.teacher.id for c in missing if c.teacher}
    groups: dict[str, Job] = {}
    for config in missing:
        key = config.id if config.id in teachers else cohort_key(config)
        groups.setdefault(key, []).append(config)
    jobs = []
    for group in groups.values():
        size = -(-len(group) // workers)
        jobs += [group[i : i + size] for i in range(0, len(group), size)]
    return sorted(jobs, key=lambda job: job[0].id not in teachers)


def ready_jobs(waiting: Iterable[Job], done: Callable[[RunConfig], bool]) -> list[Job]:
    """The jobs whose teachers are there."""
    return [job for job in waiting if all(c.teacher is None or done(c.teacher) for c in job)]


def carry_out(jobs: Iterable[Job], running: dict, begin: Callable, ended: Callable, finish: Callable, done: Callable, most: int | None = None) -> None:
    """Train the jobs, each when its teachers are there; RunFailed, once all else is done, if some runs were not finite.

    ``begin(job)`` gives a handle, at most ``most`` at a time; ``ended(handles)`` those that ended; ``finish(handle, job)`` what is to be
    said of runs that failed. ``running``: the jobs by handle, for whoever must stop them. ``done`` as `ready_jobs` takes it.
    """
    waiting, failures = list(jobs), []
    while waiting or running:
        for job in ready_jobs(waiting, done)[: None if most is None else most - len(running)]:
            running[begin(job)] = job
            waiting.remove(job)
        if not running:  # the rest waits for a teacher that failed
            break
        for handle in ended(list(running)):
            failures += finish(handle, running[handle])
            del running[handle]
    if failures:
        left = sum(map(len, waiting))
        raise RunFailed("; ".join(failures) + (f"; {left} runs wait for it as their teacher" if left else ""))


def step_cost(config: RunConfig) -> float:
    """Roughly what a step costs, for the time left: wider networks more, a label-assisted teacher's two paths double."""
    return config.network.width * (2 if config.network.extra_channels else 1)
