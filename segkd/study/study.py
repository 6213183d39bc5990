"""A study: one paper's tables at one profile on one data set, from configs to tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.catalog import DATASETS
from segkd.data.folder import content
from segkd.data.store import Packed
from segkd.data.verify import splits_of
from segkd.losses.method import create_method
from segkd.losses.rows import LONGER
from segkd.registry import unknown
from segkd.runs import Run, environment, find, split_of
from segkd.study.executor import execute
from segkd.study.own_teacher import about_teacher, teacher_from_file
from segkd.study.papers import PAPERS, Row, Table, paper_tables
from segkd.study.profiles import Profile, get_profile, seed_list
from segkd.study.results import summary, tidy

NOTES = {"camvid": "; CamVid's val is one clip from inside a training sequence"}
PERCENT = {"mIoU %": "{:.1f}", "± sd": "{:.1f}", "gain": "{:+.1f}", "paper mIoU %": "{:.2f}", "paper gain": "{:+.2f}"}


def _names(value: str | Iterable[str] | None) -> list[str] | None:
    if not value:
        return None
    return [v.strip() for v in value.split(",")] if isinstance(value, str) else list(value)


def open_study(
    paper: str,
    profile: str = "quick",
    dataset: str = "scenes",
    seeds: int | str | None = None,
    methods: str | None = None,
    tables: str | None = None,
    devices: str | None = None,
    teacher: str | None = None,
) -> Study:
    """The study of one paper. Mistyped names are a UserError with the nearest known name; nothing is written.

    ``seeds`` a number or a list "0,3"; ``methods`` and ``tables`` keep only these (comma separated); ``devices`` such
    as "cuda:0,cuda:1" or "cpu,cpu" (one process each). ``teacher``: the file of a whole trained network (see
    `segkd.models.checkpoints`), used as it is wherever the profile would train a plain teacher.
    """
    scale = get_profile(profile)
    if seeds:
        scale = replace(scale, one_seed=())
    found = paper_tables(paper, scale.levels)
    data = data_of(scale, dataset)
    for name in _names(methods) or []:
        create_method(name)
    for name in _names(tables) or []:
        if name not in found:
            if name not in {t for p in PAPERS for t in paper_tables(p, 1)}:
                raise unknown(f"table of {paper}:", name, found)
    keep = _names(tables)
    chosen = {k: v for k, v in found.items() if (k in keep if keep else not v.on_request)}
    own = teacher_from_file(teacher, dataset) if teacher else None
    return Study(paper, scale, data, seed_list(seeds, scale), chosen, found, _names(methods), _names(devices), own)


def data_of(profile: Profile, dataset: str) -> DataConfig:
    """The images of a study. UserError: an unknown set, or one whose splits must be read and that is not there."""
    if dataset != "folder":
        splits = DATASETS.get(dataset).splits
        return profile.data_config(dataset, splits)
    return replace(profile.data_config(dataset, splits_of(dataset)), content=content())


@dataclass(frozen=True)
class Study:
    """Rows of one paper's tables, the runs behind them, and what came out. Made by ``open_study``."""

    paper: str
    profile: Profile
    data: DataConfig
    seeds: list[int]
    tables: dict[str, Table]  # to be run
    all_tables: dict[str, Table]
    methods: list[str] | None = None
    devices: list[str] | None = None
    own_teacher: NetworkConfig | None = None  # a trained network from a file instead of the profile's teacher

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.data.name

    @property
    def schedule(self) -> Schedule:
        """The schedule of every row but those of the table "tuning"."""
        return self.profile.schedule_for(self.dataset)

    def rows(self, table: str) -> list[Row]:
        """The rows of a table that this study runs."""
        if table not in self.all_tables:
            raise unknown(f"table of {self.paper}:", table, self.all_tables)
        rows = self.all_tables[table].rows
        keep = self.methods and {"baseline", *self.methods}  # gains are against the baseline
        return [r for r in rows if not keep or r.role != "student" or r.spec in keep]

    def config(self, row: Row, seed: int) -> RunConfig:
        """The run behind a row. Hyper-parameters equal to the defaults are left out, so equal runs are one run."""
        p, schedule = self.profile, self.schedule
        if row.tuning is not None:
            factors = dict(zip(("lr", "weight_decay"), row.tuning))
            schedule = replace(p.schedule, **{key: getattr(p.schedule, key) * factor for key, factor in factors.items()})
        longer = replace(schedule, steps=round(schedule.steps * p.teacher_steps))
        config = RunConfig(self.data, p.student, schedule, seed=seed)
        if row.role == "teacher" and self.own_teacher:
            return replace(config, network=self.own_teacher, schedule=replace(schedule, steps=0))
        if row.role == "teacher":
            return replace(config, network=p.teacher, schedule=longer)
        hyper = _changed(row)
        if row.role == "label_teacher":
            network = replace(p.student, extra_channels=1)
            return replace(config, network=network, schedule=longer, method="lad", hyper=hyper)
        method = create_method(row.spec, **hyper)
        teacher = None
        if method.teacher_kind is not None:
            lad = {k: v for k, v in hyper.items() if k == "lad"}
            teacher = self.config(Row("", "lad", lad, "label_teacher"), seed)
        elif method.needs_teacher:
            teacher = self.config(Row("", role="teacher"), seed)
        return _controlled(replace(config, method=row.spec, hyper=hyper, teacher=teacher), row.control)

    def configs(self) -> list[RunConfig]:
        """Every run of every chosen table, each once."""
        seeds = {name: self.seeds[:1] if name in self.profile.one_seed else self.seeds for name in self.tables}
        found = [self.config(row, seed) for name in self.tables for row in self.rows(name) for seed in seeds[name]]
        return list({c.id: c for c in found}.values())

    def run(self) -> None:
        """Train what is missing; finished runs are left alone."""
        execute(self.configs(), self.devices)

    def runs(self, table: str, row: str) -> list[Run]:
        """Finished runs of a row, by its label."""
        labels = {r.label: r for r in self.rows(table)}
        if row not in labels:
            raise unknown(f"row of table '{table}':", row, labels)
        found = [find(self.config(labels[row], seed)) for seed in self.seeds]
        return [r for r in found if r.done]

    def results(self, table: str | None = None) -> pd.DataFrame:
        """Tidy results of finished runs: paper, table, row, seed, run, metric, value."""
        names = list(self.all_tables) if table is None else [table]
        lines = [
            line
            for name in names
            for row in self.rows(name)
            for run in self.runs(name, row.label)
            for line in tidy(self.paper, name, row, run)
        ]
        columns = ["paper", "table", "row", "role", "method", "level", "seed", "run", "split", "metric", "value"]
        return pd.DataFrame(lines, columns=columns)

    def scores(self, table: str) -> pd.DataFrame:
        """mIoU of each finished run: row, role, seed, miou, and the row's place on the table's axes."""
        lines = [
            {"row": row.label, "role": row.role, "seed": run.config.seed, "miou": run.result["miou"], **row.level}
            for row in self.rows(table)
            for run in self.runs(table, row.label)
        ]
        return pd.DataFrame(lines, columns=["row", "role", "seed", "miou", *self.all_tables[table].axes])

    def class_iou(self, table: str, rows: list[str] | None = None) -> pd.DataFrame:
        """IoU of each class and run: method (row label), seed, class, iou, and the class's share of training pixels."""
        shares = self.packed("train").class_shares()
        lines = [
            {"method": row.label, "seed": run.config.seed, "class": name, "iou": value, "train_share": share}
            for row in self.rows(table)
            if rows is None or row.label in rows
            for run in self.runs(table, row.label)
            for name, value, share in zip(run.result["classes"], run.result["iou"], shares)
            if value is not None
        ]
        return pd.DataFrame(lines, columns=["method", "seed", "class", "iou", "train_share"])

    def curves(self, table: str) -> pd.DataFrame:
        """Loss and validation mIoU over the steps of each run: row, seed, step, loss, miou."""
        lines = [
            {"row": row.label, "seed": run.config.seed, "step": m["step"], "loss": m.get("task"), "miou": m.get("miou")}
            for row in self.rows(table)
            for run in self.runs(table, row.label)
            for m in run.metrics()
        ]
        return pd.DataFrame(lines, columns=["row", "seed", "step", "loss", "miou"])

    def headline(self, table: str = "main") -> dict[str, str]:
        """The few numbers for the report's first page: scores, and each student's gain with its verdict."""
        found = {}
        for line in self.summary(table).to_dict("records"):
            if line["runs"]:
                gain = f" ({line['gain']:+.1f}, {line['verdict']})" if line["verdict"] else ""
                found[line["row"]] = f"{line['mIoU %']:.1f}{gain}"
        return found

    def table(self, name: str, reference: str | None = "baseline") -> pd.io.formats.style.Styler:
        """The paper's table as measured here, ready to show. ``reference``: the row that gains are against."""
        found = self.summary(name, reference)
        empty = [c for c in found if found[c].isna().all() or (found[c] == "").all()]
        found = found.drop(columns=empty)
        formats = {column: text for column, text in PERCENT.items() if column in found}
        return found.style.hide(axis="index").format(formats, na_rep="–", escape="html")

    def summary(self, name: str, reference: str | None = "baseline") -> pd.DataFrame:
        """The numbers behind ``table``; a sweep is compared with its first row (the plain loss)."""
        rows = self.rows(name)
        table = replace(self.all_tables[name], rows=tuple(rows))
        labels = [r.label for r in rows]
        if reference not in labels:
            reference = labels[0] if rows[0].role == "student" else None
        return summary(table, self.results(name), reference)

    def protocol(self) -> pd.io.formats.style.Styler:
        """What is run, as a table to show."""
        return as_table(self.facts())

    def facts(self) -> dict[str, str]:
        """What is run: data, networks, schedule, each in words."""
        p, data = self.profile, self.data
        network = lambda n: n.name + (f" (width {n.width:g})" if n.width != 1 else "")  # noqa: E731
        at = lambda size: f"{size[0]}x{size[1]}" if size else "the images' own sizes"  # noqa: E731
        schedule, either = self.schedule, "either" if data.split != "val" else "it"
        longer = f", trained {p.teacher_steps:g} times as long" if p.teacher_steps != 1 else ""
        return {
            "profile": f"{p.name}: {p.shows}",
            "data": f"{self.dataset} at {at(data.size)}, crop {at(data.crop or data.size)}; result on {data.split}, "
            f"validated on val, no checkpoint chosen on {either}{NOTES.get(self.dataset, '')}",
            "student": network(p.student),
            "teacher": self._teacher_from_file() if self.own_teacher else network(p.teacher) + longer,
            "label-assisted teacher": f"{network(p.student)} with a 4th input channel{longer}",
            "schedule": f"{schedule.optimiser.upper().replace('ADAMW', 'AdamW')}, {schedule.steps} steps of {schedule.batch_size}, "
            f"lr {schedule.lr:g} poly {schedule.power:g}, warm-up {schedule.warmup:.0%}, weight decay {schedule.weight_decay:g}, "
            f"auxiliary weight {schedule.aux_weight:g}",
            "seeds": ", ".join(map(str, self.seeds)) + self._few_seeds(),
            "start": p.student.weights or "random weights, the same for all methods of a seed",
        }

    def _few_seeds(self) -> str:
        few = [name for name in self.all_tables if name in self.profile.one_seed]
        return f" ({', '.join(few)}: {self.seeds[0]} alone)" if few and len(self.seeds) > 1 else ""

    def packed(self, split: str) -> Packed:
        """A split of the data at the study's size."""
        return split_of(RunConfig(self.data), split)

    def provenance(self) -> pd.io.formats.style.Styler:
        """Where the numbers come from: versions, commit, and the number of runs behind this page."""
        done = [find(c) for c in self.configs()]
        values = environment() | {"runs": f"{sum(r.done for r in done)} of {len(done)} finished"}
        if self.own_teacher:
            values["teacher"] = self._teacher_from_file()
        return as_table(values)

    def _teacher_from_file(self) -> str:
        return about_teacher(find(self.config(Row("", role="teacher"), self.seeds[0])))


def _controlled(config: RunConfig, control: str) -> RunConfig:
    """The run of a control row: trained longer, or taught by a teacher that cannot help (see losses/rows.py)."""
    if control == "longer":
        return replace(config, schedule=replace(config.schedule, steps=round(LONGER * config.schedule.steps)))
    if control == "untrained_teacher":
        teacher = config.teacher
        network = replace(teacher.network, checkpoint=None, checkpoint_hash="")
        return replace(config, teacher=replace(teacher, network=network, schedule=replace(teacher.schedule, steps=0)))
    if control == "shuffled_teacher":
        return replace(config, teacher_classes="shuffled")
    return config


def as_table(values: dict) -> pd.io.formats.style.Styler:
    """Facts as a table of two columns without a header, nothing cut short."""
    frame = pd.DataFrame({"what": list(values), "value": [str(v) for v in values.values()]})
    return frame.style.hide(axis="index").hide(axis="columns").format(escape="html")


def _changed(row: Row) -> dict:
    """The row's hyper-parameters that differ from the method's defaults."""
    given = create_method(row.spec, **row.hyper).hyper()
    default = create_method(row.spec).hyper()
    found = {}
    for part, values in given.items():
        differ = {k: v for k, v in values.items() if v != default[part][k]}
        if differ:
            found[part] = differ
    return found
