"""A study: one paper's tables at one profile on one data set, from configs to tables and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from segkd.config import RunConfig
from segkd.data.readers.folder import content
from segkd.data.store import Packed
from segkd.data.verify import splits_of
from segkd.losses.method import create_method
from segkd.models import check_model_name
from segkd.registry import unknown
from segkd.runs import Run, find, split_of
from segkd.study.execute.executor import execute
from segkd.study.numbers.results import tidy
from segkd.study.numbers.show import TableView, as_table, called, in_common, setting_facts, view
from segkd.study.numbers.statistics import points
from segkd.study.numbers.summaries import base_row, cost_columns, summary
from segkd.study.tables.configs import Setting, row_config, too_small, with_networks
from segkd.study.tables.own_teacher import about_teacher, as_source, teacher_from_file
from segkd.study.tables.papers import keys_of, paper_tables
from segkd.study.tables.printed import also_printed
from segkd.study.tables.profiles import get_profile, seed_list
from segkd.study.tables.table import Row, Table
from segkd.train.record import environment

NO_TRAINING = "SEGKD_NO_TRAINING"  # environment variable, set while a report is made of what is there


def _names(value: str | None) -> list[str] | None:
    return [name.strip() for name in value.split(",")] if value else None


def open_study(
    paper: str, profile: str = "quick", dataset: str = "scenes", seeds: int | str | list[int] | None = None, methods: str | None = None,
    tables: str | None = None, devices: str | None = None, teacher: str | None = None, student: str | None = None,
    teacher_network: str | None = None,
) -> Study:  # fmt: skip
    """The study of one paper. Mistyped names are a UserError with the nearest known name; nothing is written.

    ``seeds`` a number or a list, "0,3" or [0, 3]; ``methods`` and ``tables`` keep only these (comma separated; "lad/table3" is that
    paper's alone); ``devices`` such as "cuda:0,cuda:1" or "cpu,cpu" (one process each). ``teacher``: a trained network,
    "NETWORK:FILE" or a run's folder (`teacher_from_file`), used as it is wherever the profile would train a plain teacher.
    ``student`` and ``teacher_network``: networks of `list_models`, such as "deeplabv3/resnet18", in place of the profile's.
    """
    for name in filter(None, (student, teacher_network)):
        check_model_name(name)
    scale = with_networks(get_profile(profile), paper, dataset, student or "", teacher_network or "")
    if seeds:
        scale = replace(scale, tables=dict.fromkeys(scale.tables))
    data = scale.data_config(dataset, splits_of(dataset))  # a described folder's must be read
    data = replace(data, content=content()) if dataset == "folder" else data
    for name in _names(methods) or []:
        create_method(name)
    own = teacher_from_file(teacher, dataset) if teacher else None
    own_networks = scale.own_protocols and not student
    beside = "" if scale.own_protocols else scale.student.name
    found = paper_tables(paper, scale.levels, dataset, student or "", own_networks, beside)
    keep = keys_of(paper, _names(tables), found)
    keep = [k for k, v in found.items() if not v.on_request and k in (scale.tables or found)] if keep is None else keep
    chosen = {k: v for k, v in found.items() if k in keep}
    return Study(Setting(paper, scale, data, own), seed_list(seeds, scale), chosen, found, _names(methods), _names(devices))


@dataclass(frozen=True)
class Study:
    """Rows of one paper's tables, the runs behind them, and what came out. Made by ``open_study``."""

    setting: Setting
    seeds: list[int]
    tables: dict[str, Table]  # to be run
    all_tables: dict[str, Table]
    methods: list[str] | None = None
    devices: list[str] | None = None

    paper = property(lambda self: self.setting.paper, doc="Name of the paper, or ``all``.")
    profile = property(lambda self: self.setting.profile, doc="The scale.")
    data = property(lambda self: self.setting.images(), doc="The images, as the rows see them that have no protocol of their own.")
    dataset = property(lambda self: self.data.name, doc="Name of the data set.")
    schedule = property(lambda self: self.setting.schedule(), doc="Of every row but those of \"tuning\" and of printed tables with their own.")

    def rows(self, table: str) -> list[Row]:
        """The rows of a table that this study runs."""
        if table not in self.all_tables:
            raise unknown(f"table of {self.paper}:", table, self.all_tables)
        rows = self.all_tables[table].rows
        keep = self.methods and {"baseline", *self.methods}  # gains are against the baseline
        return [r for r in rows if not keep or r.role != "student" or r.spec in keep]

    def config(self, row: Row, seed: int) -> RunConfig:
        """The run behind a row. Hyper-parameters equal to the defaults are left out, so equal runs are one run."""
        return row_config(self.setting, row, seed)

    def configs(self, tables: Iterable[str] | None = None) -> list[RunConfig]:
        """Every run of the chosen tables (or of these), each once; without those that the images are too small for."""
        found = [
            self.config(row, seed)
            for name in (self.tables if tables is None else tables)
            for row in self.rows(name)
            for seed in self.seeds[: 1 if self.all_tables[name].first_seed else self.profile.tables.get(name)]
        ]
        return [c for c in {c.id: c for c in found}.values() if not too_small(c)]

    def missing(self, table: str) -> str:
        """The command that trains what a table lacks; "" if it lacks nothing."""
        if all(find(c).done for c in self.configs([table])):
            return ""
        usual = with_networks(get_profile(self.profile.name), self.paper, self.dataset, "", "")
        networks = {"STUDENT": (self.profile.student, usual.student), "TEACHER_NETWORK": (self.profile.teacher, usual.teacher)}
        chosen = {name: own.name for name, (own, plain) in networks.items() if own != plain} | {
            "SEEDS": ",".join(map(str, self.seeds)) if self.seeds != seed_list(None, self.profile) else "",
            "METHODS": ",".join(self.methods or []),
            "TEACHER": as_source(self.setting.own_teacher) if self.setting.own_teacher else "",
        }
        words = [f"{name}={value}" for name, value in chosen.items() if value]
        head = f"make reproduce PROFILE={self.profile.name} DATASET={self.dataset} TABLES={self.paper}/{table}"
        return " ".join([head, *words])

    def run(self) -> None:
        """Train what is missing; finished runs are left alone."""
        if not os.environ.get(NO_TRAINING):
            execute(self.configs(), self.devices)

    def runs(self, table: str, row: str) -> list[Run]:
        """Finished runs of a row, by its label."""
        labels = {r.label: r for r in self.rows(table)}
        if row not in labels:
            raise unknown(f"row of table '{table}':", row, labels)
        found = [find(self.config(labels[row], seed)) for seed in self.seeds]
        return [r for r in found if r.done]

    def _done(self, table: str) -> Iterator[tuple[Row, Run]]:
        return ((row, run) for row in self.rows(table) for run in self.runs(table, row.label))

    def results(self, table: str | None = None) -> pd.DataFrame:
        """Tidy results of finished runs: profile, dataset, paper, table, row, seed, run, metric, value."""
        names = list(self.all_tables) if table is None else [table]
        lines = [line for name in names for row, run in self._done(name) for line in tidy(self.paper, name, row, run)]
        columns = "profile dataset paper table row role method level seed run split metric value".split()
        return pd.DataFrame(lines, columns=columns).assign(profile=self.profile.name)

    def scores(self, table: str) -> pd.DataFrame:
        """mIoU of each finished run: row, role, seed, miou, and the row's place on the table's axes."""
        lines = [
            {"row": row.label, "role": row.role, "seed": run.config.seed, "miou": run.result["miou"], **row.level}
            for row, run in self._done(table)
        ]
        return self._told(table, "results.csv", pd.DataFrame(lines, columns=["row", "role", "seed", "miou", *self.all_tables[table].axes]))

    def _told(self, table: str, csv: str, frame: pd.DataFrame) -> pd.DataFrame:  # for charts: the file of the numbers, each row's runs
        frame.attrs = {"csv": csv, "runs": self._ids(table)}
        return frame

    def _ids(self, table: str) -> dict[str, list[str]]:
        return {row.label: [run.id for run in self.runs(table, row.label)] for row in self.rows(table)}

    def class_iou(self, table: str, rows: list[str] | None = None) -> pd.DataFrame:
        """IoU of each class and run: method (row label), seed, class, iou, and the class's share of training pixels."""
        lines = [
            {"method": row.label, "seed": run.config.seed, "class": name, "iou": value, "train_share": share}
            for row, run in self._done(table)
            if rows is None or row.label in rows
            for shares in [run.result.get("train_shares") or self.packed("train").class_frequencies()]  # of kept runs as it was
            for name, value, share in zip(run.result["classes"], run.result["iou"], shares)
            if value is not None
        ]
        return self._told(table, "results.csv", pd.DataFrame(lines, columns=["method", "seed", "class", "iou", "train_share"]))

    def curves(self, table: str) -> pd.DataFrame:
        """Loss and validation mIoU over the steps of each run: row, seed, step, loss, miou."""
        lines = [
            {"row": row.label, "seed": run.config.seed, "step": m["step"], "loss": m.get("task"), "miou": m.get("miou")}
            for row, run in self._done(table)
            for m in run.metrics()
        ]
        return self._told(table, "curves.csv", pd.DataFrame(lines, columns=["row", "seed", "step", "loss", "miou"]))

    def headline(self, table: str = "main") -> dict[str, str]:
        """The few numbers for the report's first page: scores, and each student's gain with its verdict."""
        gain = lambda line: f" ({points(line['gain'])}, {line['verdict']})" if line["verdict"] else ""  # noqa: E731
        lines = self.summary(table).to_dict("records")
        return {line["row"]: f"{line['mIoU %']:.1f}{gain(line)}" for line in lines if line["runs"]}

    def table(self, name: str, reference: str | None = "baseline") -> TableView:
        """The paper's table as measured here, ready to show, each row named by what was run. ``reference``: the row that gains are against."""
        rows, table = self.rows(name), self.all_tables[name]
        found, alone = self._summary(name, reference)
        configs = {row.label: self.config(row, self.seeds[0]) for row in rows}
        runs = self._ids(name)
        kinds = {label: configs[label] for label in configs if runs[label]}
        words = called([row for row in rows if row.label in kinds], kinds)
        comparable = self.profile.own_protocols and self.dataset == table.source.get("dataset")
        first = self._reference(name, reference)
        over = "the baseline of the same network" if any(row.group for row in rows) and first == "baseline" else first or ""
        ran = in_common(self.data, kinds) if table.source else ""
        same = self._above(name, reference)
        above = (same, "the main comparison" if same == "main" else same and self.all_tables[same].source["table"])
        return view(found, table, words, runs, ran=ran, reference=over, missing=self.missing(name), comparable=comparable, alone=alone, key=name, above=above, also=also_printed(table) if table.rows and table.rows[0].printed else None)

    def _above(self, name: str, reference: str | None) -> str:
        """The first table higher up the paper's page that shows each run of this printed one against the same reference; "" if none does."""

        def pairs(key: str) -> set[tuple]:
            table, first = replace(self.all_tables[key], rows=tuple(self.rows(key))), self._reference(key, reference)
            ids = {label: tuple(found) for label, found in self._ids(key).items()}
            return {(ids[row.label], ids.get(base_row(table, row, first))) for row in table.rows if ids[row.label]}

        printed = [key for key, table in self.all_tables.items() if table.rows and table.rows[0].printed]
        mine = pairs(name) if name in printed else set()
        accuracy = lambda key: "mAcc %" in self.summary(key, reference)  # noqa: E731  some tables show it beside mIoU
        return next((key for key in ("main", *printed[: printed.index(name)]) if mine <= pairs(key) and accuracy(key) >= accuracy(name)), "") if mine else ""

    def _reference(self, name: str, reference: str | None) -> str | None:
        """A sweep without a baseline is compared with its first row (the plain loss)."""
        rows = self.rows(name)
        labels = [r.label for r in rows]
        if reference not in labels and not (reference == "baseline" and any(r.group for r in rows)):
            return labels[0] if rows[0].role == "student" else None
        return reference

    def summary(self, name: str, reference: str | None = "baseline") -> pd.DataFrame:
        """The numbers behind ``table``, a line a row, the rows without a run too."""
        return self._summary(name, reference)[0]

    def _summary(self, name: str, reference: str | None) -> tuple[pd.DataFrame, bool]:
        rows, reference = self.rows(name), self._reference(name, reference)
        table, results = replace(self.all_tables[name], rows=tuple(rows)), self.results(name)
        configs = {row.label: self.config(row, self.seeds[0]) for row in rows}
        found = summary(table, results, reference)
        found["verdict"] = found["verdict"].mask([too_small(configs[row.label]) for row in rows], "images too small")
        beside, alone = cost_columns(table, results, reference, configs, self._longer)
        return pd.concat([found, beside], axis=1), alone

    def _longer(self, base: Row) -> pd.Series:
        runs = [find(self.config(replace(base, control="longer"), seed)) for seed in self.seeds]
        return pd.Series({run.config.seed: run.result["miou"] for run in runs if run.done}, dtype=float)

    def protocol(self) -> pd.io.formats.style.Styler:
        """What is run, as a table to show."""
        return as_table(self.facts())

    def facts(self) -> dict[str, str]:
        """What is run: data, networks, schedule, each in words."""
        few = [name for name in self.all_tables if self.profile.tables.get(name) == 1]
        return setting_facts(self.setting, self.seeds, few, self._teacher_from_file() if self.setting.own_teacher else None)

    def packed(self, split: str) -> Packed:
        """A split of the data at the study's size."""
        return split_of(RunConfig(self.data), split)

    def provenance(self) -> pd.io.formats.style.Styler:
        """Where the numbers come from: versions, commit, and the number of runs behind this page."""
        done = [find(c).done for c in self.configs()]
        teacher = {"teacher": self._teacher_from_file()} if self.setting.own_teacher else {}
        return as_table(environment() | {"runs": f"{sum(done)} of {len(done)} finished"} | teacher)

    def _teacher_from_file(self) -> str:
        return about_teacher(find(self.config(Row("", role="teacher"), self.seeds[0])))

