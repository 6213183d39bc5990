"""What a table of a study is: its rows, each with the method and the setting behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROUNDING = "rounding "  # how the control of a copy begins


@dataclass(frozen=True)
class Row:
    """One line of a table. ``role``: student, teacher (a plain larger network) or label_teacher (LAD).

    ``network`` and ``teacher`` are names of `list_models`; "" stands for the study's own.
    """

    label: str  # of a printed table: with the paper's own networks
    spec: str = "baseline"
    hyper: dict[str, Any] = field(default_factory=dict)
    role: str = "student"
    level: dict[str, Any] = field(default_factory=dict)  # place on the ablation's axes
    reported: tuple[str, str] | None = None  # (method, setting) in data/papers/reported.csv
    control: str = ""  # one of the "controls" of losses/rows.py, or "rounding 2": that copy of the row and of its teacher
    tuning: tuple[float, float] | None = None  # factors on learning rate and weight decay as they were before they were tuned
    network: str = ""  # the network that is trained; of a label-assisted teacher: without its fourth channel
    teacher: str = ""  # its teacher's network
    start: str = ""  # "imagenet" or "scratch" where the table says it, for the profile that has ImageNet weights
    source: dict[str, str] = field(default_factory=dict)  # columns of reported.csv beside the table's
    group: str = ""  # rows that share a baseline: the same network from the same start
    printed: str = ""  # the paper's name of its table, such as "Table 5": some have a protocol of their own
    words: str = ""  # the label without networks; "": it names none


@dataclass(frozen=True)
class Table:
    """A table of a paper: its rows and where its reported numbers stand."""

    title: str
    rows: tuple[Row, ...]
    source: dict[str, str] = field(default_factory=dict)  # columns of reported.csv
    axes: tuple[str, ...] = ()
    on_request: bool = False  # trained only if TABLES names it
    first_seed: bool = False  # trained for the first seed only, however many there are
    note: str = ""  # what a reader must know to compare
