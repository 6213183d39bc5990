"""A study on the machines of a Ray cluster: each job, a cohort of runs, is a task; the run store is on shared storage.

A task that was lost with its machine starts again elsewhere and goes on from the newest checkpoint. The lock of each run
keeps a machine that was only thought to be lost from writing beside it.
"""

from __future__ import annotations

import os

from segkd.config import runs_root
from segkd.registry import UserError, unknown
from segkd.runs import find, run_cohort
from segkd.study.execute.jobs import Job, carry_out, step_cost
from segkd.study.execute.progress import Progress
from segkd.train.failure import RunFailed

RETRIES = 10  # machines that a job may lose
PASSED_ON = ("SEGKD_DATA", "SEGKD_WEIGHTS", "SEGKD_DATA_DEVICE", "SEGKD_CHECKPOINT_SECONDS")


def parse_resources(text: str) -> dict[str, float]:
    """ "cpu=1,gpu=0.5" as {"num_cpus": 1.0, "num_gpus": 0.5}; UserError for anything else. A whole cohort takes them."""
    found = {}
    for item in text.split(","):
        name, _, number = item.strip().partition("=")
        if name not in ("cpu", "gpu"):
            raise unknown("resource", name, ("cpu", "gpu"))
        try:
            found[f"num_{name}s"] = float(number)
        except ValueError:
            found[f"num_{name}s"] = -1.0
        if not 0 <= found[f"num_{name}s"] < float("inf"):
            raise UserError(f"resources '{text}': '{item}' gives no number from 0; write cpu=1,gpu=0.5")
    return {"num_cpus": 1.0, "num_gpus": 0.0} | found


def _resources(text: str | None) -> dict[str, float]:
    """By default a GPU for each job where the cluster has any, and one CPU."""
    import ray

    return parse_resources(text or ("cpu=1,gpu=1" if ray.cluster_resources().get("GPU") else "cpu=1"))


def cluster_slots(resources: str | None) -> int:
    """How many jobs the cluster can train at a time, as it is now; connects to it ($RAY_ADDRESS, else one on this machine).

    UserError: Ray is not installed, or no machine could ever take a job.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError('executor ray: Ray is not installed; pip install "segkd[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    need = {{"num_cpus": "CPU", "num_gpus": "GPU"}[key]: value for key, value in _resources(resources).items() if value}
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(min((int(node.get(name, 0) / value + 1e-9) for name, value in need.items()), default=1) for node in there)
    if slots == 0:
        words = ", ".join(f"{name} {value:g}" for name, value in need.items())
        raise UserError(f"executor ray: no machine of the cluster has {words} for a job; ask for less with --resources")
    return slots


def train_on_ray(jobs: list[Job], resources: str | None, progress: Progress) -> None:
    """Train the jobs, each when its teachers are there; RunFailed, once all else is done, if some runs were not finite."""
    import ray

    options = {"max_retries": RETRIES, "retry_exceptions": False, "runtime_env": {"env_vars": _environment()}}
    task = ray.remote(**options, **_resources(resources))(_work)
    running, done = {}, set()
    untouched = {c.id for job in jobs for c in job}
    there = lambda config: config.id in done or config.id not in untouched  # noqa: E731 - what is not in a job was there

    def finish(reference: object, job: Job) -> list[str]:
        failures = _outcome(reference)
        done.update(_tell(job, progress))
        return failures

    try:
        carry_out(jobs, running, task.remote, lambda references: ray.wait(references, timeout=None)[0], finish, there)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _environment() -> dict[str, str]:
    """What tasks need to know of this process's places: they are the same on every machine."""
    here = {"SEGKD_RUNS": str(runs_root().resolve())}
    return here | {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def _work(job: Job) -> str | None:
    """In a task, which sees the GPU that Ray gave it and no other: what is to be said of runs that were not finite."""
    try:
        run_cohort(job, "auto")
    except RunFailed as error:
        return str(error)
    return None


def _outcome(reference: object) -> list[str]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        text = ray.get(reference)
    except RayTaskError as error:  # an error in the task, told as it was
        raise error.cause from error
    except RayError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"executor ray: a job was lost {RETRIES + 1} times ({reason}); "
            "finished runs and checkpoints are kept, the same command goes on"
        ) from error
    return [text] if text else []


def _tell(job: Job, progress: Progress) -> set[str]:
    """Report the finished runs of a job; returns their ids."""
    found = {c.id for c in job if find(c).done}
    for config in (c for c in job if c.id in found):
        schedule, run = config.schedule, find(config)
        rows = [row for row in run.metrics() if row["kind"] == "train"]
        work, images = schedule.steps * step_cost(config), schedule.steps * schedule.batch_size
        progress.step(config.id, rows[-1] if rows else {"step": 0}, schedule.steps, work, images)
        progress.finished(config.id, run.result["miou"])
    return found
