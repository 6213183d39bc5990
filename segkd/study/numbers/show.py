"""A study's tables and facts as a page shows them: what was run, named by its runs; what it cost and what the paper prints, folded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from segkd.config import DataConfig, RunConfig
from segkd.losses.rows import LONGER
from segkd.study.numbers.statistics import points
from segkd.study.tables.configs import Setting
from segkd.study.tables.table import Row, Table

TIE = "\u00a0"  # a space at which no line breaks
CAMVID_NOTE = {"camvid": "; CamVid's val is one clip from inside a training sequence"}
SCORES = ("row", "val mIoU %", "mIoU %", "gain", "95 % interval", "verdict", "± 95 %", "reference %", "runs", "gain at equal time", "mAcc %")
COST = ("row", "ms a step", "time ratio", "extra parameters")
PAPER = (
    "paper mIoU %", "paper gain", "paper gain (computed)", "paper mAcc %", "paper params M", "paper params M (recounted)", "paper GMACs",
    "paper GMACs (recounted)", "paper ms a step", "paper minutes", "paper time ratio", "paper KL between draws, x 100",
)  # fmt: skip
FORMATS = {
    "val mIoU %": "{:.1f}", "mIoU %": "{:.1f}", "± 95 %": "{}", "reference %": "{:.1f}", "gain": points, "mAcc %": "{:.1f}", "ms a step": "{:.0f}",
    "time ratio": "{:.2f}", "extra parameters": "{:,.0f}",
}  # fmt: skip
NOTES = {  # what a column means, said below a table that has it
    "gain": "gain: over {reference}, paired by seed; mean and reference are those of the same seeds",
    "gain at equal time": f"gain at equal time: over a baseline as long by the clock, an estimate (*: over one {LONGER:g} times as long, though the method "
    "takes longer still; n: on so many of the seeds)",
    "extra parameters": "extra parameters: what the method trains or holds beside the student",
    "paper GMACs (recounted)": "recounted: of the paper's networks, by its own counting rule",
}
CLOCKS = {
    True: "ms a step: training time, the teacher's pass included, each measured by itself (benchmarks/results/methods.md)",
    False: "ms a step: by the clock of the runs, the teacher's pass included; other work may have run beside",
}
START = {None: "random weights", "imagenet": "ImageNet weights"}  # what a network starts from, in words
NOT_MEASURED = ("row", "extra", "paper")  # how columns begin that no run stands behind


@dataclass(frozen=True)
class TableView:
    """A table as a notebook or a page shows it."""

    html: str

    def to_html(self) -> str:
        """The HTML."""
        return self.html

    _repr_html_ = to_html


def view(
    summary: pd.DataFrame, table: Table, called: Mapping[str, str], runs: Mapping[str, Sequence[str]], *,
    ran: str = "", reference: str = "", missing: str = "", comparable: bool = False, alone: bool = False, key: str = "", above: tuple[str, str] = ("", ""), also: pd.DataFrame | None = None,
) -> TableView:
    """The numbers of ``Study.summary`` as a table to show.

    ``called``: by a row's label what its runs are, ``runs``: their ids. A run that serves two rows is shown once; rows
    without one are counted, with the command that trains them (``missing``). ``ran``: what the runs have in common, said
    above. ``comparable``: the runs are of the paper's own networks and data, so that its values may stand beside ours;
    else they are folded below, under the paper's own names. ``alone``: steps were measured by themselves. ``key``: what links
    call the table; ``above``: key and name of one higher up the page that shows all of these numbers, which are not repeated. ``also``: what else it prints.
    """
    small = summary["verdict"] == "images too small"
    ids = summary["row"].map(lambda label: ",".join(runs.get(label, ())))
    here = summary[((summary["runs"] > 0) & ~ids.mask(ids == "").duplicated()) | small]
    here = here.assign(row=here["row"].map(lambda label: called.get(label, label)))
    titles = {called.get(label, label): ids for label, ids in runs.items() if ids}
    students = {called.get(row.label, row.label) for row in table.rows if row.role == "student"}
    idle = bool(students) and students.isdisjoint(here["row"]) and len(here) > 0
    here = here[:0] if idle else here  # of a table of students its teacher alone shows nothing
    same = above[0] and len(here)
    link = f'<a href="#{escape(above[0])}">{escape(above[1])}</a>'
    parts = [f"<p><b>Run here:</b> {escape('; '.join(here['row']))}. The same runs stand in {link} with their numbers.</p>"] if same else []
    costs, here, comparable = here, here[:0] if same else here, comparable and not same
    if len(here):
        parts += [f"<p><b>Run here:</b> {escape(ran)}</p>"] if ran else []
        columns = _shown(here, (*SCORES, *(PAPER if comparable else ())))
        notes = [NOTES[c].format(reference=reference) for c in columns if c in NOTES]
        parts.append(with_runs(_style(_in_words(here)[columns], notes), titles).to_html())
    if lacking := int((summary["runs"] == 0).sum() - small.sum()):
        which = f"{lacking} more row{'s are' if lacking > 1 else ' is'} not run here" if len(here) or same else f"Nothing of this table is run here{' but its teacher' if idle else ''}"
        parts.append(f"<p>{which}: <code>{escape(missing)}</code></p>")
    if len(columns := _shown(costs, COST)) > 1:
        notes = [CLOCKS[alone], *(NOTES[c] for c in columns if c in NOTES)]
        parts.append(folded("What it costs", with_runs(_style(costs.loc[costs[columns[1:]].notna().any(axis=1), columns], notes), titles)))
    columns = _shown(summary, ("row", *PAPER))
    if len(columns) > 1 and not comparable:
        printed = summary.loc[summary[columns[1:]].notna().any(axis=1), columns]
        parts.append(folded(f"In the paper ({(table.note or table.title).removeprefix('paper: ')})", _style(printed, [NOTES[c] for c in columns if c in NOTES], lambda c: c.removeprefix("paper "))))
    if also is not None and len(also):
        parts.append(folded(f"Also in {table.source['table']} of the paper", also.style.format(na_rep="–", escape="html")))
    html = "\n".join(parts)
    return TableView(f'<div id="{escape(key)}">{html}</div>' if key else html)


def called(rows: Sequence[Row], configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """What each row with a run is called: its method and setting, never a network that its runs do not have.

    Rows of a printed table carry the names of the paper's networks; where ours differ from row to row, ours are named.
    ``configs``: by label.
    """
    several = len({configs[row.label].network.label for row in rows if row.role == "student"}) > 1
    teachers = {configs[row.label].teacher.network.label for row in rows if row.role == "student" and configs[row.label].teacher}
    found = {}
    for row in rows:
        own, words = configs[row.label], row.words or row.label
        more = [own.network.label] if row.printed and (several or row.role != "student") else []
        more += [f"from {own.teacher.network.label}"] if row.printed and len(teachers) > 1 and own.teacher else []
        found[row.label] = f"{words}: {', '.join(more)}" if more else words
    return found


def in_common(data: DataConfig, configs: Mapping[str, RunConfig]) -> str:
    """What the runs of a table have in common, in words: images, student, start."""
    students = dict.fromkeys(c.network.label for c in configs.values() if not c.network.extra_channels and (c.teacher or len(configs) == 1))
    starts = dict.fromkeys(START.get(c.network.weights, c.network.weights) for c in configs.values())
    size = f" at {data.size[0]}x{data.size[1]}" if data.size else ""
    return f"{data.name}{size}; student {' or '.join(students)}, from {' or '.join(starts)}" if students else f"{data.name}{size}"


def folded(title: str, style: pd.io.formats.style.Styler) -> str:
    """HTML of a table behind its title."""
    return f"<details><summary>{escape(title)}</summary>\n{style.to_html()}\n</details>"


def _shown(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns that say anything."""
    return [c for c in columns if c in frame and not (frame[c].isna().all() or (frame[c] == "").all())]


def _in_words(frame: pd.DataFrame) -> pd.DataFrame:
    half = ["one seed" if n == 1 else f"{v:.1f}" for n, v in zip(frame["runs"], frame["± 95 %"])]
    found = frame.assign(**{"± 95 %": half})
    return found.assign(**{"gain at equal time": [_equal_time(line) for line in frame.to_dict("records")]}) if "time ratio" in frame else found


def _style(frame: pd.DataFrame, notes: Sequence[str], rename: Callable[[str], str] = str) -> pd.io.formats.style.Styler:
    formats = {c: FORMATS[c] if c in FORMATS else _as_printed(frame[c]) for c in frame if c in (*FORMATS, *PAPER)}
    style = frame.style.hide(axis="index").format(formats, na_rep="–", escape="html")
    style = style.format_index(lambda name: rename(name).replace("± 95 %", f"±{TIE}95{TIE}%").replace(" %", f"{TIE}%"), axis="columns", escape="html")
    below = [{"selector": "caption", "props": "caption-side: bottom; text-align: left"}]
    return style.set_caption(escape(". ".join(notes) + ".")).set_table_styles(below) if notes else style


def _as_printed(values: pd.Series) -> Callable[[float], str]:
    """The papers' values with the papers' digits: as many for all of a column as any has, two at most."""
    digits = max(len(str(round(value, 2)).partition(".")[2].rstrip("0")) for value in values.dropna())
    return lambda value: f"{value:{'+' if 'gain' in values.name else ''}.{digits}f}".replace("-", "−")


def with_runs(style: pd.io.formats.style.Styler, runs: Mapping[str, Sequence[str]]) -> pd.io.formats.style.Styler:
    """The table with a title attribute for each measured cell. ``runs``: ids by the row's label (column ``row``)."""
    shown = style.data
    ids = [", ".join(runs.get(label, ())) for label in shown["row"]]
    tips = pd.DataFrame({column: "" if column.startswith(NOT_MEASURED) else ids for column in shown}, index=shown.index)
    return style.set_tooltips(tips, as_title_attribute=True)


def _equal_time(line: dict) -> str:
    gain, seeds = line["gain at equal time"], line["seeds at equal time"]
    if math.isnan(gain):
        return "–"
    few = f" (n{TIE}={TIE}{seeds:.0f})" if seeds < line["runs"] else ""
    return f"{points(gain)}{'*' if line['time ratio'] > LONGER else ''}{few}"


def as_table(values: dict) -> pd.io.formats.style.Styler:
    """Facts as a table of two columns without a header, nothing cut short."""
    frame = pd.DataFrame({"what": list(values), "value": [str(v) for v in values.values()]})
    return frame.style.hide(axis="index").hide(axis="columns").format(escape="html")


def setting_facts(setting: Setting, seeds: list[int], few: list[str], own_teacher: str | None) -> dict[str, str]:
    """What a study runs: data, networks, schedule, each in words.

    ``few``: tables of which only the first seed is trained; ``own_teacher``: about a teacher from a file.
    """
    p, data, schedule = setting.profile, setting.images(), setting.schedule()
    at = lambda size: f"{size[0]}x{size[1]}" if size else "the images' own sizes"  # noqa: E731
    either = "either" if data.split != "val" else "it"
    more = f", {schedule.precision}" if schedule.precision != "float32" else ""
    more += f", result: the mean of the weights over the last {schedule.average:.0%} of the steps" if schedule.average else ""
    longer = f", trained {p.teacher_steps:g} times as long" if p.teacher_steps != 1 else ""
    found = {
        "profile": f"{p.name}: {p.shows}",
        "data": f"{data.name} at {at(data.size)}, crop {at(data.crop or data.size)}; result on {data.split}, "
        f"validated on val, no checkpoint chosen on {either}{CAMVID_NOTE.get(data.name, '')}",
        "student": p.student.label,
        "teacher": own_teacher or p.teacher.label + longer,
        "label-assisted teacher": f"{p.student.label} with a 4th input channel{longer}",
        "schedule": f"{schedule.optimiser.upper().replace('ADAMW', 'AdamW')}, {schedule.steps} steps of {schedule.batch_size}, "
        f"lr {schedule.lr:g} poly {schedule.power:g}, warm-up {schedule.warmup:.0%}, weight decay {schedule.weight_decay:g}, "
        f"auxiliary weight {schedule.aux_weight:g}{more}",
        "seeds": ", ".join(map(str, seeds)) + (f" ({', '.join(few)}: {seeds[0]} alone)" if few and len(seeds) > 1 else ""),
        "start": f"{START.get(p.student.weights, p.student.weights)}, the same for all methods of a seed",
    }
    return found | ({"protocol": setting.protocol().source} if p.own_protocols else {})
