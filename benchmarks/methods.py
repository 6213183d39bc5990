"""What a training step of each method costs at a profile's size, on noise, all in turns in one process.

``python benchmarks/methods.py`` writes results/methods.csv and results/methods.md beside this file: a profile's lines
anew, those of other profiles kept. Reports set these times against the points of mIoU that the methods gained; the tables
and the claims about time take theirs from them. CPU time of one thread, which counts no other work on the machine; that
work still takes of caches and memory, so leave the machine alone.
"""

import argparse
import csv
import time
from statistics import median

import torch
from losses import in_turns
from table import cell, environment
from torch import Tensor

from segkd.config import RunConfig
from segkd.runs import as_teacher
from segkd.study.tables.configs import too_small
from segkd.study.tables.papers import COMPARISON, PAPERS
from segkd.study.tables.step_times import ALONE, digest, image_size, kind_of
from segkd.study.tables.study import open_study
from segkd.train.runtime import computing
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

CPU = torch.device("cpu")
REPEATS, CLASSES = 15, 11
COLUMNS = ("profile", "measured", "row", "ms a step", "ms of the teacher's pass", "kind", "rounds")
SHOWN = 5  # of the columns, in the table to read
NOTES = """
Medians of rounds in which every kind takes one step. A step: forward, losses, backward, update, without the teacher's pass,
which stands beside it and which runs that are trained together share. A line a kind of step: rows that differ in
hyper-parameters only share one. Networks, image size and batch are those of the profile; what a step costs does not depend on
the images.
""".strip()


def batch(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Noise of the run's shape."""
    draws, count = torch.Generator().manual_seed(0), config.schedule.batch_size
    size = image_size(config)
    return torch.rand(count, 3, *size, generator=draws), torch.randint(0, CLASSES, (count, *size), generator=draws)


def processor_seconds(work) -> float:
    """CPU time of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def teachers(configs: list[RunConfig]) -> dict[str, Teacher]:
    """An untrained teacher for each kind of teacher, as in a run."""
    kinds: dict[str, list[RunConfig]] = {}
    for config in configs:
        if config.teacher is not None:
            kinds.setdefault(kind_of(config.teacher), []).append(config)
    build = lambda group: build_network(group[0].teacher, CLASSES, start=False).eval()  # noqa: E731
    return {kind: as_teacher(build(group), group) for kind, group in kinds.items()}


def kinds(profile: str, dataset: str) -> dict[str, RunConfig]:
    """A run of each kind that rows of the profile's own student have, by the label of the first row that is one."""
    found: dict[str, tuple[str, RunConfig]] = {}
    for paper in (COMPARISON, *PAPERS):
        study = open_study(paper, profile, dataset)
        for row in (row for name in study.all_tables for row in study.rows(name) if row.role == "student"):
            config = study.config(row, 0)
            if config.network.name == study.profile.student.name and not too_small(config):
                found.setdefault(kind_of(config), (row.label, config))
    rows = dict(found.values())
    assert len(rows) == len(found), "two kinds of step have one label"
    return rows


def measured(rows: dict[str, RunConfig]) -> list[tuple]:
    """The columns of `COLUMNS` from the third on, for each run."""
    images, labels = batch(next(iter(rows.values())))
    known = teachers(list(rows.values()))
    works, said = {}, {kind: teacher(images, labels, 0) for kind, teacher in known.items()}
    for kind, teacher in known.items():
        works[kind] = lambda teacher=teacher: processor_seconds(lambda: teacher(images, labels, 0))
    for label, config in rows.items():
        kind = kind_of(config.teacher) if config.teacher else None
        trainee = Trainee(config, CLASSES, known[kind].model.info if kind else None, CPU)
        step = lambda trainee=trainee, kind=kind: trainee.train_step(images, labels, said.get(kind))  # noqa: E731
        works[label] = lambda step=step: processor_seconds(step)
    for work in works.values():
        work()
    found, lines = in_turns(works, REPEATS, 300), []
    for label, config in rows.items():
        own = found[label]
        passes = found[kind_of(config.teacher)] if config.teacher else [0.0] * len(own)
        rounds = " ".join(f"{a + b:.2f}" for a, b in zip(own, passes))
        lines.append((label, median(own), median(passes), digest(config), rounds))
    return lines


def write(profile: str, where: str, lines: list[tuple]) -> None:
    """results/methods.csv and .md: ``lines`` as those of the profile, the others' kept."""
    kept, kinds_now = [], {line[3] for line in lines}
    if ALONE.exists():
        with open(ALONE, newline="") as file:
            kept = [[line.get(name, "") for name in COLUMNS] for line in csv.DictReader(file)]
    kept = [line for line in kept if line[0] not in ("", profile) and line[5] not in kinds_now]
    rows = [*kept, *([profile, where, *line] for line in lines)]
    with open(ALONE, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    shown = [COLUMNS[:1] + COLUMNS[2:SHOWN], ["---"] * (SHOWN - 1)]
    shown += [[row[0], row[2], cell(float(row[3])), cell(float(row[4]))] for row in rows]
    machines = [f"- {name}: {how}" for name, how in dict((row[0], row[1]) for row in rows).items()]
    text = ["# What a step of each method costs", "", "Generated by `benchmarks/methods.py`.", "", NOTES, "", *machines, ""]
    ALONE.with_suffix(".md").write_text("\n".join([*text, *(f"| {' | '.join(line)} |" for line in shown)]) + "\n")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="scratch")
    parser.add_argument("--dataset", default="camvid")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    study = open_study("all", chosen.profile, chosen.dataset)
    with computing(study.setting.schedule().precision, CPU):
        rows = measured(kinds(chosen.profile, chosen.dataset))
    setting = f"{chosen.dataset}, {study.facts()['student']}, {study.facts()['schedule']}"
    write(chosen.profile, f"{setting}; {environment('CPU time')}", rows)
    for label, own, teacher, *_ in rows:
        print(f"{label:20} {own:7.1f} ms  teacher {teacher:6.1f} ms")


if __name__ == "__main__":
    main()
