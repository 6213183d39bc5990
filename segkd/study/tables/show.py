"""A study's tables and facts as a page shows them; each number of a table names its runs, where the mouse rests on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from segkd.losses.rows import LONGER
from segkd.study.tables.configs import Setting
from segkd.study.tables.table import Table

TIE = "\u00a0"  # a space at which no line breaks
CAMVID_NOTE = {"camvid": "; CamVid's val is one clip from inside a training sequence"}
FORMATS = {
    "mIoU %": "{:.1f}", "gain": "{:+.1f}", "paper mIoU %": "{:.2f}", "paper gain": "{:+.2f}", "ms a step": "{:.0f}",
    "MiB": "{:.0f}", "extra parameters": "{:,.0f}", "time ratio": "{:.2f}", "paper mAcc %": "{:.2f}", "params M": "{:.1f}",
    "paper params M": "{:.1f}", "GMACs": "{:.1f}", "paper GMACs": "{:.1f}", "paper ms a step": "{:.0f}", "paper minutes": "{:.0f}",
    "paper time ratio": "{:.2f}", "mAcc %": "{:.1f}", "paper mkl_x100": "{:.1f}",
}  # fmt: skip
NOT_MEASURED = ("row", "paper", "extra")  # how columns begin that no run stands behind
NOTES = {  # what a column means, said below a table that has it
    "± 95 %": "± 95 %: t interval of the mean over seeds",
    "gain": "gain: paired by seed, over the baseline of the same network",
    "ms a step": "ms a step: training time, the teacher's pass included, the median over seeds; other work may have run beside",
    "MiB": "MiB: peak of the process, which on a CPU trains several rows together",
    "extra parameters": "extra parameters: what the method trains or holds beside the student",
    "time ratio": "time ratio: over the baseline's step, each measured by itself (benchmarks/results/methods.md) where it is there, "
    "else by ms a step",
    "gain at equal time": "gain at equal time: an estimate, over a baseline that trains as long by the clock, interpolated linearly "
    f"between its own length and {LONGER:g} times that (*: over the longer one, though the method takes longer still; n: on so many of the seeds)",
    "GMACs": "GMACs and params M: ours by the papers' counting rule, of their networks at full width",
}


def shown(summary: pd.DataFrame, table: Table, missing: str = "", alike: str = "") -> pd.io.formats.style.Styler:
    """The numbers of ``Study.summary`` as a table to show, with what is needed to read them; empty columns are left out.

    ``missing``: the command that trains what is missing, rows without a number are then left out beside others that have
    some; ``alike``: which rows are one run (`same_runs`).
    """
    numbers = summary.filter(regex="^(mIoU|paper)").notna().any(axis=1) | (summary["verdict"] == "images too small")
    summary = summary[numbers] if missing and numbers.any() else summary
    empty = [c for c in summary if summary[c].isna().all() or (summary[c] == "").all()]
    found = summary.drop(columns=[*empty, *({"± sd"} & set(summary) - {*empty})])
    if "± 95 %" in summary:
        half = ["" if n == 0 else "one seed" if n == 1 else f"{v:.1f}" for n, v in zip(summary["runs"], summary["± 95 %"])]
        found = found.drop(columns="± 95 %", errors="ignore")
        if any(half):
            found.insert(found.columns.get_loc("mIoU %") + 1, "± 95 %", half)
    if "95 % interval" in found:
        found["95 % interval"] = found["95 % interval"].str.replace(" to ", f"{TIE}to{TIE}")
    if "gain at equal time" in found:
        found["gain at equal time"] = [_equal_time(line) for line in found.to_dict("records")]
    found = found.drop(columns="seeds at equal time", errors="ignore")
    formats = {column: text for column, text in FORMATS.items() if column in found}
    notes = [table.note, alike, *(text for column, text in NOTES.items() if column in found)]
    notes += [f"to train what is missing: {missing}"] if missing else []
    style = found.style.hide(axis="index").format(formats, na_rep="–", escape="html").format_index(lambda name: name.replace(" %", f"{TIE}%"), axis="columns", escape="html")
    below = [{"selector": "caption", "props": "caption-side: bottom; text-align: left"}]
    return style.set_caption(escape(". ".join(filter(None, notes)) + ".")).set_table_styles(below)


def same_runs(ids: dict[str, str]) -> str:
    """Which rows are one run, as a note; at a profile whose networks all start alike, the paper's starts are.

    ``ids``: the run of each row's label.
    """
    by_run: dict[str, list[str]] = {}
    for label, run in ids.items():
        by_run.setdefault(run, []).append(label)
    alike = [" and ".join(labels) for labels in by_run.values() if len(labels) > 1]
    if len(alike) > 1:
        return f"{len(alike)} pairs of rows are the same run at this profile, such as {alike[0]}"
    return f"{alike[0]} are the same run at this profile" if alike else ""


def _equal_time(line: dict) -> str:
    gain, seeds = line["gain at equal time"], line["seeds at equal time"]
    if math.isnan(gain):
        return "–"
    few = f" (n{TIE}={TIE}{seeds:.0f})" if seeds < line["runs"] else ""
    return f"{gain:+.1f}{'*' if line['time ratio'] > LONGER else ''}{few}"


def as_table(values: dict) -> pd.io.formats.style.Styler:
    """Facts as a table of two columns without a header, nothing cut short."""
    frame = pd.DataFrame({"what": list(values), "value": [str(v) for v in values.values()]})
    return frame.style.hide(axis="index").hide(axis="columns").format(escape="html")


def facts_of(setting: Setting, seeds: list[int], few: list[str], own_teacher: str | None) -> dict[str, str]:
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
        "start": p.student.weights or "random weights, the same for all methods of a seed",
    }
    return found | ({"protocol": setting.protocol().source} if p.own_protocols else {})


def with_runs(style: pd.io.formats.style.Styler, runs: Mapping[str, Sequence[str]]) -> pd.io.formats.style.Styler:
    """The table with a title attribute for each measured cell. ``runs``: ids by the row's label (column ``row``)."""
    shown = style.data
    ids = [", ".join(runs.get(label, ())) for label in shown["row"]]
    tips = pd.DataFrame({column: "" if column.startswith(NOT_MEASURED) else ids for column in shown}, index=shown.index)
    return style.set_tooltips(tips, as_title_attribute=True)
