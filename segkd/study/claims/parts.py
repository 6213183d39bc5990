"""What the test of a claim is made of: cells (what is trained), comparisons (what is measured), tests (what must hold)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segkd.config import RunConfig
from segkd.losses.rows import ROW_HYPER, ROWS
from segkd.study.numbers.study import Study
from segkd.study.tables.papers import Row

WIDE, NARROW = "wide", "narrow"  # the networks of the study's plain teacher and of its student
TIME = "step_time"  # the measure that is of kinds of steps, each measured by itself, and not of runs
SAME = 0.5  # points of mIoU that "at least as good" and "does not beat" leave room for


@dataclass(frozen=True)
class Cell:
    """One thing that is trained once a seed: a row of a table, on the study's networks unless others are named.

    ``student``, ``teacher``: "wide" (the plain teacher's network) or a network by name, at the study's width.
    ``weights``: "imagenet" or "random" instead of the study's start. A label-assisted teacher is the student's network
    unless ``teacher`` says otherwise.
    """

    row: Row
    student: str = ""
    teacher: str = ""
    weights: str = ""

    @property
    def label(self) -> str:
        """The cell in words."""
        more = [self.student, f"taught by {self.teacher}" if self.teacher else "", self.weights]
        more = ", ".join(text for text in more if text)
        return self.row.label + (f" ({more})" if more else "")


@dataclass(frozen=True)
class Comparison:
    """A number for each seed, which a claim says to lie above ``limit``.

    The number is the sum of the cells' values of ``measure`` times ``weights``, or, for a measure of several runs at
    once (``joint``), what that makes of the cells' runs in their order.
    """

    what: str
    cells: tuple[Cell, ...]
    weights: tuple[float, ...] = (1.0, -1.0)
    measure: str = "miou"
    limit: float = 0.0
    joint: bool = False


@dataclass(frozen=True)
class Test:
    """How a claim is tested here: every comparison must hold. ``why_not``: why no run here could test it.

    ``datasets``: the claim is about these alone; empty: what it says is tried on the study's data. ``start``: the
    students' start that it needs, "imagenet" or "random"; ``full_width``: it needs networks of width 1.
    ``check``: a name of `segkd.study.claims.checks`, for what needs no training. ``premises``: names of
    `segkd.study.claims.premises` without which it says nothing; None: those of its paper. ``note``: what a reader must know.
    ``cells``: what must be trained for it.
    """

    __test__ = False  # no test of pytest's

    comparisons: tuple[Comparison, ...] = ()
    datasets: tuple[str, ...] = ()
    start: str = ""
    full_width: bool = False
    check: str = ""
    why_not: str = ""
    premises: tuple[str, ...] | None = None
    note: str = ""
    cells: tuple[Cell, ...] = field(init=False, default=())

    def __post_init__(self):
        cells = [cell for comparison in self.comparisons if comparison.measure != TIME for cell in comparison.cells]
        object.__setattr__(self, "cells", tuple(c for i, c in enumerate(cells) if c not in cells[:i]))


WORDS = {  # how two values of a measure are compared (− or, by their logarithms, /), and its name
    "macc": "−, mAcc", TIME: "/, time a step (n: rounds)", "pairwise_kl": "/, KL between draws of noise", "early_miou": "−, early mIoU",
    "boundary_miou": "−, mIoU near boundaries", "thin_iou": "−, IoU of thin classes", "silhouette": "−, silhouette",
    "activation": "/, activation on rare classes",
}  # fmt: skip
NAMES = {
    "maskd": "MasKD", "fakd_pd": "FAKD on PD", "rdd_tfe": "RDD, TFE alone", "rdd_tse": "RDD, TSE alone", ("rdd", "cwd"): "CIRKD's CWD",
}  # fmt: skip


def paper_cell(paper: str, method: str) -> Cell:
    """The cell of a method as a paper's tables mean it (`segkd.losses.rows`)."""
    name = NAMES.get((paper, method)) or NAMES.get(method) or method.upper().replace("+", " + ")
    return Cell(Row(name, ROWS[paper, method], ROW_HYPER.get((paper, method), {})))


def method_cell(label: str, spec: str, part: str = "", **hyper: Any) -> Cell:
    """The cell of a method with hyper-parameters of one of its parts."""
    return Cell(Row(label, spec, {part: hyper} if hyper else {}))


on = replace  # on(cell, student=...): the same row on another network or from another start


def over(cell: Cell, others: Sequence[Cell], measure: str = "miou", limit: float = 0.0) -> tuple[Comparison, ...]:
    """One comparison with each of the others: the cell is to lie above it."""
    sign, of = WORDS.get(measure, "−")[0], WORDS.get(measure, "−")[1:]
    return tuple(Comparison(f"{cell.label} {sign} {other.label}{of}", (cell, other), measure=measure, limit=limit) for other in others)


def chain(*cells: Cell, measure: str = "miou") -> tuple[Comparison, ...]:
    """Best first: each cell is to lie above the next one."""
    return tuple(c for first, second in zip(cells, cells[1:]) for c in over(first, [second], measure))


def value(what: str, cell: Cell, measure: str, limit: float = 0.0) -> Comparison:
    """One cell's own measure, which is to lie above the limit."""
    return Comparison(what, (cell,), (1.0,), measure, limit)


def together(what: str, cells: Sequence[Cell], measure: str) -> Comparison:
    """A measure of several runs at once."""
    return Comparison(what, tuple(cells), (), measure, joint=True)


def config_of(study: Study, cell: Cell, seed: int) -> RunConfig:
    """The run behind a cell, trained as the study trains its rows."""
    config, p = study.config(cell.row, seed), study.profile

    def network(of: RunConfig, name: str) -> RunConfig:
        own = {WIDE: p.teacher, NARROW: p.student}.get(name) or replace(p.student, name=name)
        return replace(of, network=replace(own, extra_channels=of.network.extra_channels))

    if cell.student:
        config = network(config, cell.student)
    if cell.teacher or (cell.student and config.teacher and config.teacher.network.extra_channels):
        config = replace(config, teacher=network(config.teacher, cell.teacher or cell.student))
    if cell.weights:
        config = replace(config, network=replace(config.network, weights={"imagenet": "imagenet", "random": None}[cell.weights]))
    return config
