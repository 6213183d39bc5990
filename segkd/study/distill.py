"""`segkd distill`: from a folder of images to a page and a file in so many minutes: sizes the study to this machine, trains, renders."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from segkd.config import ROOT, RunConfig
from segkd.data.overview import command
from segkd.data.readers.folder import content
from segkd.registry import UserError
from segkd.runs import find
from segkd.study.execute.executor import default_devices, execute
from segkd.study.execute.progress import in_words
from segkd.study.lab import own_data
from segkd.study.numbers.step_times import kind_of, on_noise
from segkd.study.numbers.study import Study
from segkd.study.report import notebooks as report
from segkd.study.report.reproduce import inputs_digest
from segkd.train.clock import Clock, timed
from segkd.train.runtime import computing, pick_device
from segkd.train.state import read_json, write_json

PROFILE, NOTEBOOK = "small", ROOT / "notebooks" / "95_your_own_data.ipynb"
STUDENTS = "deeplabv3plus/efficientnet_lite0,deeplabv3plus/efficientnet_lite1"  # the second where the minutes allow
LEAST, ENOUGH = 20, 300  # steps: below the first nothing is learnt, from the second on another size is worth more than more steps
USED = 0.85  # of the minutes that are planned with: machines have other things to do
PAGE, FILES = 60.0, 60.0  # seconds of notebook and page, and of exporting a student, on a core on which a step takes `STEP`
STEP = 0.45


@dataclass(frozen=True)
class DistillPlan:
    """What is trained: steps of a student, seeds, how many of the students, and how many seconds that should take."""

    steps: int
    seeds: int
    students: int
    seconds: float

    def __str__(self) -> str:
        count = lambda number, what: f"{number} {what}{'s' * (number > 1)}"  # noqa: E731
        return f"{count(self.students, 'student')}, {self.steps} steps, {count(self.seeds, 'seed')} each"


def distill(
    data: str = "", student: str = "", teacher: str = "", method: str = "cwd", minutes: float = 30, out: Path | None = None, profile: str = PROFILE,
    unlabelled: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Lines about what is done; the last two are the paths of the page and of the exported file.

    The same call goes on where it was stopped, and repeats nothing that is done: its plan is kept beside the page, in ``out``
    (default: reports/ship-<folder>-<hash>). UserError: bad input, said before anything is written.
    """
    if not 0 < minutes < 1e5:
        raise UserError(f"MINUTES={minutes:g}: give a number of minutes above 0")
    begin = time.monotonic()
    folder = own_data.own_folder(data)
    students = student or STUDENTS
    asked = {"content": content(), "student": students, "teacher": teacher, "method": method, "minutes": minutes, "profile": profile}
    if unlabelled:
        asked["unlabelled"] = unlabelled
    choice = {"student": students, "teacher": teacher, "unlabelled": unlabelled}
    studies = own_data.open_own(folder, profile, method, seeds="1", **choice)
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    place = out or ROOT / "reports" / f"ship-{folder.stem}-{key}"
    if not (place / "plan.json").exists():
        yield from command(["verify", "folder"])
        lengths = {split: len(studies[0].packed(split)) for split in ("train", "val", studies[0].data.split)}
        costs = costs_of(studies, lengths)
        spent, full = time.monotonic() - begin, studies[0].schedule.steps
        better = lambda minutes: choose(costs, 60 * minutes - spent, full, len(studies))  # noqa: E731
        plan = better(minutes)
        write_json(place / "plan.json", {"asked": asked, "plan": asdict(plan), "more": what_more_buys(plan, minutes, better)})
    kept = read_json(place / "plan.json", "delete it: the same command plans again")
    if kept["asked"] != asked:
        raise UserError(f"{place} is of another call (its plan.json: {kept['asked']}): give another --out")
    plan, names = DistillPlan(**kept["plan"]), [name.strip() for name in students.split(",")]
    choice["student"] = ",".join(names[: plan.students])
    yield f"planned for {minutes:g} minutes: {plan} ({choice['student'].replace(',', ', ')}); about {in_words(plan.seconds)}"
    yield from kept["more"]
    studies = own_data.open_own(folder, profile, method, seeds=str(plan.seeds), steps=str(plan.steps), **choice)
    execute([config for study in studies for config in study.configs()])
    yield f"trained after {in_words(time.monotonic() - begin)}; now the files and the page"
    parameters = {"FOLDER": str(folder), "PROFILE": profile, "STEPS": str(plan.steps), "METHOD": method, "SEEDS": str(plan.seeds), "OUT": str(place)}
    page = _page(studies, place, parameters | {"STUDENT": choice["student"], "TEACHER": teacher, "UNLABELLED": str(unlabelled)})
    yield f"done after {in_words(time.monotonic() - begin)}"
    yield f"page  {page}"
    yield f"file  {place / 'student.onnx'}"


def _page(studies: list[Study], place: Path, parameters: dict[str, str]) -> Path:
    """Run the notebook and render it, unless both are there for these very results."""
    runs = {config.id: find(config) for study in studies for config in study.configs()}
    executed, html = place / "ship.ipynb", place / "ship.html"
    stamp = report.stamp(NOTEBOOK, parameters, [inputs_digest(studies, runs)])
    if not (report.is_fresh(executed, stamp) and html.exists() and (place / "student.onnx").exists()):
        report.run_notebook(NOTEBOOK, executed, parameters, "Ship", stamp=stamp, environment={"SEGKD_FIGURES": str(place / "figures")})
        report.render(executed, html)
    return html


def choose(seconds: Callable[[int, int, int], float], budget: float, full: int, students: int) -> DistillPlan:
    """The richest plan that fits ``budget`` seconds; ``seconds(students, seeds, steps)``: what one takes.

    Steps come first, up to ``ENOUGH``; then every student, up to ``full`` steps; then seeds, three and five. One student at ``LEAST``
    steps is planned however short the time is.
    """
    for count, seeds, least in ((students, 5, full), (students, 3, full), (students, 1, min(ENOUGH, full)), (1, 1, min(LEAST, full))):
        base = seconds(count, seeds, 0)
        steps = min(full, int((USED * budget - base) / (seconds(count, seeds, 1) - base)))
        if steps >= least:
            break
    steps = max(steps, least)
    return DistillPlan(steps, seeds, count, seconds(count, seeds, steps))


def what_more_buys(plan: DistillPlan, minutes: float, better: Callable[[float], DistillPlan]) -> list[str]:
    """What was chosen and what more minutes would buy; ``better(minutes)``: the plan of so many."""
    plans = {minutes: plan} | {factor * minutes: better(factor * minutes) for factor in (2, 4, 10)}
    more = [f"MINUTES={time:g} would train {other}" for one, (time, other) in zip(plans.values(), list(plans.items())[1:]) if str(one) != str(other)]
    return ["that is more than asked for, and the least that learns anything"] * (plan.seconds > 60 * minutes) + more


def costs_of(studies: list[Study], images: dict[str, int]) -> Callable[[int, int, int], float]:
    """``seconds(students, seeds, steps)`` on this machine, by timing two steps of each kind of run on noise."""
    devices = default_devices()
    configs = [study.configs() for study in studies]
    times = step_seconds([c for group in configs for c in group], len(studies[0].packed("train").classes), pick_device(devices[0]))
    looks = studies[0].schedule.validations * images["val"] + images[studies[0].data.split]
    slow = max(1.0, times[kind_of(configs[0][0])] / STEP)

    def seconds(students: int, seeds: int, steps: int) -> float:
        runs = {c.id: c for group in configs[:students] for c in group}.values()
        full = studies[0].schedule.steps
        cost = {c.id: times[kind_of(c)] * (steps * c.schedule.steps / full + looks / (3 * c.schedule.batch_size)) for c in runs}
        chain = max(cost[c.id] + (cost[c.teacher.id] if c.teacher else 0) for c in runs)  # a student waits for its teacher
        return max(seeds * sum(cost.values()) / len(devices), chain) + slow * (PAGE + FILES * students)

    return seconds


def step_seconds(configs: list[RunConfig], classes: int, device: torch.device) -> dict[str, float]:
    """Seconds of a training step with its teacher's pass, by `kind_of`; the first step is not counted."""
    found: dict[str, float] = {}
    with computing(configs[0].schedule.precision, device):
        for config, step, teach in on_noise(list({kind_of(c): c for c in configs}.values()), classes, device):
            clocks = [Clock(device) for _ in range(3)]
            for clock in clocks:
                with timed(clock):
                    teach(), step()
            found[kind_of(config)] = sum(clock.seconds for clock in clocks[1:]) / 2
    return found
