"""What a training step of each method costs at a profile's size, on noise, all in turns in one process.

``python benchmarks/methods.py`` writes results/methods.csv and results/methods.md beside this file; reports set these
times against the points of mIoU that the methods gained, and the tables take their time ratios from them. CPU time of one
thread, which counts no other work on the machine; that work still takes of caches and memory, so leave the machine alone.
"""

import argparse
import time

import torch
from losses import medians
from table import environment, write
from torch import Tensor

from segkd.config import RunConfig
from segkd.runs import as_teacher
from segkd.study.tables.papers import COMPARISON, PAPERS
from segkd.study.tables.step_times import digest, image_size, kind_of
from segkd.study.tables.study import open_study
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

CPU = torch.device("cpu")
REPEATS, CLASSES = 15, 11
COLUMNS = ("row", "ms a step", "ms of the teacher's pass", "kind")
NOTES = """
Medians. A step: forward, losses, backward, update, without the teacher's pass, which stands beside it and which runs that are
trained together share. A line a kind of step: rows that differ in hyper-parameters only share one. Networks, image size and batch
are those of the profile; what a step costs does not depend on the images.
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
            if config.network.name == study.profile.student.name:
                found.setdefault(kind_of(config), (row.label, config))
    rows = dict(found.values())
    assert len(rows) == len(found), "two kinds of step have one label"
    return rows


def measured(rows: dict[str, RunConfig]) -> list[tuple[str, float, float, str]]:
    """A line for each run."""
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
    found = medians(works, REPEATS, 300)
    passes = {label: found[kind_of(config.teacher)] if config.teacher else 0.0 for label, config in rows.items()}
    return [(label, found[label], passes[label], digest(config)) for label, config in rows.items()]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="scratch")
    parser.add_argument("--dataset", default="camvid")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    study = open_study("all", chosen.profile, chosen.dataset)
    rows = measured(kinds(chosen.profile, chosen.dataset))
    notes = f"{NOTES}\n\nProfile {chosen.profile}, {chosen.dataset}: {study.facts()['student']}, {study.facts()['schedule']}."
    write("methods", "What a step of each method costs", COLUMNS, rows, environment("CPU time"), notes)
    for label, own, teacher, _ in rows:
        print(f"{label:20} {own:7.1f} ms  teacher {teacher:6.1f} ms")


if __name__ == "__main__":
    main()
