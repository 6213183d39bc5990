"""A study in sessions: train what fits into some minutes on one device, and leave a folder from which it goes on elsewhere.

The folder holds first the frozen files of a report, then ``runs/``: of each finished run its small files and its weights, in half
precision but for teachers, of each unfinished one its newest checkpoint; large files in pieces of 16 MiB.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segkd.config import RunConfig, runs_root
from segkd.data import create_dataset
from segkd.registry import UserError
from segkd.runs import Run, cohort_key, find, run_cohort
from segkd.study.execute.jobs import Job, with_teachers
from segkd.study.numbers.frozen import facts_of, thaw
from segkd.study.numbers.study import Study
from segkd.study.report.freeze import freeze
from segkd.study.report.reproduce import open_studies
from segkd.train.failure import RunFailed
from segkd.train.loop import OutOfTime
from segkd.train.runtime import pick_device
from segkd.train.state import checkpoints, read_json, write_json, write_whole

PIECE = 2**24  # bytes
SHARE = 0.9  # of the time, for training; the rest is for the folder
SMALL = ("config.json", "env.json", "metrics.jsonl", "images.npz")
LARGEST = 65504.0  # in half precision
NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*?)(\.(?P<number>\d{3})-of-(?P<all>\d{3}))?")


def session(minutes: float, profile: str, dataset: str, out: str | Path, device: str = "cuda") -> Iterator[str]:
    """Lines on what is done: the folder ``out`` taken over, the next runs trained until the time is up, ``out`` written anew.

    Seed by seed: what the premises need (baseline, teachers), then the rest of the joint comparison; then all other tables. As many
    students step together as would be done in time; one that is not is checkpointed. SIGTERM ends the time. UserError: no time,
    unknown names, no data, no such device.
    """
    if not minutes > 0:
        raise UserError(f"MINUTES: {minutes:g} leaves no time; give at least 1")
    out = Path(out)
    if (out / "study.json").exists() and (own := [facts_of(out)[key] for key in ("profile", "dataset")]) != [profile, dataset]:
        raise UserError(f"OUT: {out} holds {own[0]} on {own[1]}, not {profile} on {dataset}; give another folder")
    with _until(time.monotonic() + 60 * minutes * SHARE) as left:
        yield from _work(left, profile, dataset, out, device)


@contextmanager
def _until(end: float) -> Iterator[Callable[[], float]]:
    """Inside, a function that gives the seconds left; SIGTERM ends them."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        yield lambda: 0.0 if told else end - time.monotonic()
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(left: Callable[[], float], profile: str, dataset: str, out: Path, device: str) -> Iterator[str]:
    failed: set[str] = set()
    studies, where = open_studies(profile, dataset, {}), str(pick_device(device))
    for split in ("train", "val", studies[0].data.split):
        create_dataset(dataset, split=split)  # a data set that is not there is said now
    configs = with_teachers(in_order(studies))
    taught_by = {c.teacher.id for c in configs.values() if c.teacher}
    back = [*take_back(out), *thaw(configs.values(), out)]
    yield f"{len(back)} runs taken over from {out}, {sum(find(c).done for c in configs.values())} of {len(configs)} done"
    while (seconds := left()) > 0 and (job := next_job(configs.values(), taught_by, failed, seconds)):
        try:
            with suppress(OutOfTime):
                run_cohort(job, where, _clock(left))
        except RunFailed as error:
            failed |= {c.id for c in job if not find(c).done}
            yield str(error)
        yield from (f"done: {c.id}  mIoU {find(c).result['miou']:.3f}" for c in job if find(c).done)
        hand_over(studies, configs.values(), taught_by, out)
    yield f"{sum(find(c).done for c in configs.values())} of {len(configs)} runs done; the same command goes on, here or from {out}"


def in_order(studies: list[Study]) -> list[RunConfig]:
    """Every run of the studies, the joint comparison (the first study's main table) seed by seed before all else."""
    first, every = studies[0], [c for study in studies for c in study.configs()]
    known = {c.id for c in every}  # images may be too small for a row
    rows = sorted(first.rows("main"), key=lambda row: row.role == "student" and row.spec != "baseline")
    main = [first.config(row, seed) for seed in first.seeds for row in rows]
    return [c for c in (*main, *every) if c.id in known]


def next_job(configs: Iterable[RunConfig], taught_by: set[str], failed: set[str], left: float) -> Job:
    """The first run that is missing and, if it teaches none, those that may step with it and be done in ``left`` seconds too."""
    configs = list(configs)
    missing = [c for c in configs if not find(c).done and not {c.id, c.teacher and c.teacher.id} & failed]
    if not missing or missing[0].id in taught_by:
        return missing[:1]
    together = [c for c in missing if cohort_key(c) == cohort_key(missing[0]) and c.id not in taught_by]
    begun = [c for c in together if checkpoints(find(c).path)]
    known = [find(c).result for c in configs if find(c).done and c.id not in taught_by]
    own, teacher = (max((r[key] for r in known), default=left) for key in ("seconds_per_step", "teacher_seconds_per_step"))
    fit = left / max(missing[0].schedule.steps, 1) - teacher  # seconds that a step of all may take
    return begun or together[: max(1, int(fit / max(own, 1e-9)))]


def _clock(left: Callable[[], float]) -> Callable[[str, dict[str, float]], None]:
    def report(run: str, row: dict[str, float]) -> None:
        if left() <= 0:
            raise OutOfTime

    return report


def hand_over(studies: list[Study], configs: Iterable[RunConfig], taught_by: set[str], out: Path) -> None:
    """Write ``out``: frozen files, students, teachers, then checkpoints; a finished run that lies there whole stays."""
    runs = [find(c) for c in configs if find(c).path.exists()]
    freeze(studies, out)
    for run in sorted((r for r in runs if r.done and not r.kept), key=lambda r: r.id in taught_by):
        if not (out / "runs" / run.id / "result.json").exists():
            _leave(run, out, run.path / "model.safetensors", half=run.id not in taught_by)
    for run in runs:
        if not run.done and (newest := checkpoints(run.path)):
            _leave(run, out, newest[0], half=False)


def _leave(run: Run, out: Path, large: Path, half: bool) -> None:
    """A run's small files, a large one, and last its result; what an earlier session left of it goes when all are there."""
    whole, folder = out / "runs" / run.id, out / "runs" / f".{run.id}"
    shutil.rmtree(folder, ignore_errors=True)
    for path in (run.path / name for name in SMALL):
        if path.exists():
            _write(folder / path.name, path.read_bytes())
    _write(folder / large.name, _in_half(large) if half else large.read_bytes())
    if run.done:
        write_json(folder / "result.json", run.result | ({"weights": "float16"} if half else {}))
    shutil.rmtree(whole, ignore_errors=True)
    folder.rename(whole)


def _write(path: Path, data: bytes) -> None:
    pieces = [data[begin : begin + PIECE] for begin in range(0, max(len(data), 1), PIECE)]
    for number, piece in enumerate(pieces):
        name = path.name if len(pieces) == 1 else f"{path.name}.{number:03d}-of-{len(pieces):03d}"
        write_whole(path.with_name(name), lambda p, piece=piece: p.write_bytes(piece))


def _in_half(path: Path) -> bytes:
    """Weights as float16, but tensors that it cannot hold."""
    from safetensors.torch import load_file, save

    fits = lambda x: x.is_floating_point() and not (x.abs() > LARGEST).any()  # noqa: E731
    return save({name: x.half() if fits(x) else x for name, x in load_file(path).items()})


def take_back(out: Path) -> list[str]:
    """Put the runs that lie whole in ``out`` among those of this machine, where they are not as far; returns their ids."""
    found = []
    for folder in sorted((out / "runs").glob("*")):
        files, target = _whole(folder) if NAME.fullmatch(folder.name) else {}, runs_root() / folder.name
        if _far(files) > _far(path.name for path in target.glob("*")):
            for name in sorted(files, key="result.json".__eq__):  # it says that a run is done
                data = b"".join(path.read_bytes() for path in files[name])
                write_whole(target / name, lambda p, data=data: p.write_bytes(data))
            found.append(folder.name)
    return found


def _far(names: Iterable[str]) -> str:
    """How far a run with these files is: its result or newest checkpoint, which compare as steps do; "" before that."""
    return max((name for name in names if name == "result.json" or name.startswith("checkpoint-")), default="")


def _whole(folder: Path) -> dict[str, list[Path]]:
    """The pieces of each file of a run; nothing unless all are there, and with them a result or a checkpoint."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not (match := NAME.fullmatch(path.name)):
            return {}
        files.setdefault(match["name"], []).append(path)
        count = int(match["all"] or 1)
        if len(list(folder.glob(f"{match['name']}*"))) != count:
            return {}
    config = files and read_json(folder / "config.json", "delete its folder")
    done = {"result.json", "model.safetensors"} <= set(files) or any(name.startswith("checkpoint-") for name in files)
    return files if config and done else {}
