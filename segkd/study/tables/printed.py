"""Every printed table of the four papers as rows to train, read from ``data/papers/reported.csv``: nothing is typed twice."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd

from segkd.losses.rows import ROW_HYPER, ROWS
from segkd.models import list_models
from segkd.study.tables.reported import DATA_NAMES, SETTING, network_of, note_of, short_name, table_lines
from segkd.study.tables.table import Row, Table

Line = dict[str, str]
TITLES = {  # what each table shows, in the order of the papers
    "lad": {
        "table1": "LAD Table 1: every method on two students",
        "table2": "LAD Table 2: the same students from random weights",
        "table3": "LAD Table 3: the same students on a second data set",
        "table4": "LAD Table 4: six more students",
        "table5": "LAD Table 5: four data sets, two larger students",
        "table6": "LAD Table 6: larger plain teachers against label-assisted ones",
        "table7": "LAD Table 7: small and large label-assisted teachers for small and large students",
        "table8": "LAD Table 8: the consistency of the teacher's two paths",
        "table9": "LAD Table 9: class-wise noise and pixel noise alpha",
        "dinov2": "LAD section 4.2: DINOv2 with LoRA as student",
    },
    "fakd": {
        "table1": "FAKD Table 1: every method on four pairs of networks",
        "table2": "FAKD Table 2: three pairs on a second data set",
        "table3": "FAKD Table 3: four pairs on two more data sets",
        "table4": "FAKD Table 4: augmentation on either loss",
        "table5": "FAKD Table 5: final strength lambda",
    },
    "hwd": {
        "table1": "HWD Table I: where the divergence of a channel lies",
        "table2": "HWD Table II: every method on three students",
        "table3": "HWD Table III: two more data sets",
    },
    "rdd": {
        "table1": "RDD Table 1: every method on four students",
        "table2": "RDD Table 2: two students on a second data set",
        "table3": "RDD Table 3: a third data set",
        "table4": "RDD Table 4: two students on a fourth data set",
        "table5": "RDD Table 5: stages and warm-up share",
        "table6": "RDD Table 6: how the two hard sets are joined",
        "table7": "RDD Table 7: the threshold of hard pixels",
        "table8": "RDD Table 8: other methods with and without relative difficulty",
        "table9": "RDD Table 9: training time",
    },
}
NOTES = {  # what a reader must know to compare
    ("lad", "table2"): "the rivals printed for PSPNet-R18 are RDD's for DeepLabV3-R18: one paper has them swapped",
    ("lad", "table5"): "the paper does not name the teacher of CWD; here it is the study's",
    ("lad", "table8"): "the paper also prints the teacher's mean pairwise KL under noise, times 100",
    ("hwd", "table1"): "the paper prints the ratio TD/NTD of 19 classes for one student, no mIoU: see the figure of the classes",
    ("rdd", "table7"): "the paper's values are means of three runs; 76.95 at t = 0.70 is 77.18 elsewhere",
    ("rdd", "table9"): "the paper prints minutes of training, no mIoU",
}
CIRKD_ON_VOC = {"cirkd": {"pixel_weight": 0.01, "region_weight": 0.01}}  # CIRKD's scripts for that set; 0.1 on the others
SCORES = {"miou": "mIoU %", "miou_gain": "gain", "macc": "mAcc %", "td_over_ntd": "TD / NTD"}
METHODS = {
    "skd": "SKD", "ifvd": "IFVD", "cwd": "CWD", "cirkd": "CIRKD", "maskd": "MasKD", "lad": "LAD", "pd": "PD", "fakd": "FAKD",
    "fakd_pd": "FAKD on PD", "fakd_cwd": "FAKD on CWD", "mgd": "MGD", "hwd": "HWD", "kd": "KD", "at": "AT", "dsd": "DSD",
    "rdd": "RDD", "rdd_tfe": "TFE alone", "rdd_tse": "TSE alone",
}  # fmt: skip

SETTINGS = {  # by key: part and hyper-parameter of a method, its value and its words, both from the text
    "alpha": ("lad", "alpha", float, lambda text: f"alpha {float(text):g}"),
    "classwise": ("lad", "class_noise", "on".__eq__, lambda text: f"class noise {text}"),
    "consistency": ("lad", "consistency", lambda text: float(text == "on"), lambda text: f"consistency {text}"),
    "lambda": ("fakd_cwd", "lam_max", float, lambda text: f"lambda {text}"),
    "p": ("rdd", "warmup", lambda text: float(text.removesuffix("%")) / 100, lambda text: f"p = {text.replace('%', ' %')}"),
    "mode": ("rdd", "mode", str.lower, lambda text: text.replace("-", " ")),
    "t": ("rdd", "threshold", float, lambda text: f"t = {text}"),
}


def printed_tables(paper: str, dataset: str = "", student: str = "", own: bool = False) -> dict[str, Table]:
    """Every table of a paper by key (``table1``, ...), with the rows of ``dataset`` or else of the table's first data set.

    A table of one student and the first plain teacher of each leave these networks to the study, unless ``own``; rows of
    several students name theirs. ``student``: the rows of this network alone, or else the first student's.
    """
    return {key: _table(paper, key, dataset, student, own) for key in TITLES[paper]}


def also_printed(table: Table) -> pd.DataFrame:
    """Scores that a printed table has beside those of its rows, as printed: of other splits, of other data sets, of single classes."""
    source, found = table.source, {}
    lines = [v for v in table_lines(source["paper"], source["table"]) if v["split"] not in ("", "unknown") and v["metric"] in SCORES]
    for line in lines:
        alike = [other for other in lines if all(other[key] == line[key] for key in ("dataset", "split", "metric"))]
        of_class = line["setting"].startswith("class=")
        if of_class or (line["dataset"], line["split"]) != (source["dataset"], source.get("split")):
            name = line["setting"].removeprefix("class=") if of_class else _label(line, alike)
            found.setdefault(name, {})[f"{DATA_NAMES[line['dataset']]} {line['split']}, {SCORES[line['metric']]}"] = line["value"]
    return pd.DataFrame.from_dict(found, orient="index")


def _lines(paper: str, key: str) -> list[Line]:
    """The lines of reported.csv of a table; its title begins with its name there."""
    name = TITLES[paper][key].partition(":")[0].partition(" ")[2]
    return table_lines(paper, "text" if key == "dinov2" else name)


def settings(paper: str, key: str, dataset: str = "") -> list[Line]:
    """One line for each setting of a printed table (columns `SETTING`), in order; HWD Table I's classes are one.

    ``dataset``: of that set alone.
    """
    found = {}
    for line in _lines(paper, key):
        setting = {column: line[column] for column in SETTING}
        if setting["setting"].startswith("class="):
            setting["setting"] = ""
        if dataset in ("", line["dataset"]):
            found[tuple(setting.values())] = setting
    return list(found.values())


def here(line: Line) -> bool:
    """Whether a setting's networks are in the zoo; RDD Table 1 also cites six others."""
    return all(line[role] in ("", "unknown") or network_of(line[role]) in list_models() for role in ("student", "teacher"))


@lru_cache(maxsize=256)
def _table(paper: str, key: str, dataset: str, student: str, own: bool) -> Table:
    values = _lines(paper, key)
    data = dataset if any(line["dataset"] == dataset for line in values) else values[0]["dataset"]
    every = settings(paper, key, data)
    lines = _of_student([line for line in every if here(line)], student)
    splits = [v["split"] for v in values if v["dataset"] == data and v["metric"] == "miou" and v["split"] != "unknown"]
    name = values[0]["table"]
    source = {"paper": paper, "table": name, "dataset": data} | ({"split": splits[0]} if splits else {})
    students = {line["student"] for line in lines} - {""}
    note = note_of(source | ({"student": students.pop()} if len(students) == 1 else {}))
    if left_out := [line["student"] for line in every if not here(line)]:
        scores = {v["student"]: v["value"] for v in values if v["metric"] == "miou"}
        note += f"; cited there, mIoU %, and not trained here: {', '.join(f'{name} {scores[name]}' for name in left_out)}"
    if (paper, key) in NOTES:
        note += f"; {NOTES[paper, key]}"
    rows = _with_baselines([_row(paper, name, line, lines, own) for line in lines])
    if dataset == "voc2012" and paper in ("lad", "rdd"):
        rows = [replace(row, hyper=row.hyper | CIRKD_ON_VOC) if "cirkd" in row.spec.split("+") else row for row in rows]
    return Table(TITLES[paper][key], tuple(rows), source, on_request=True, note=note)


def _of_student(lines: list[Line], student: str) -> list[Line]:
    """The lines of one student and of its teachers; all of them where no student is asked for."""
    names = [line["student"] for line in lines if line["student"]]
    if not student or not names:
        return lines
    kept = next((name for name in names if network_of(name) == student), names[0])
    teachers = {line["teacher"] for line in lines if line["student"] == kept}
    return [line for line in lines if line["student"] == kept or (not line["student"] and line["teacher"] in teachers)]


def _row(paper: str, table: str, line: Line, lines: list[Line], own: bool) -> Row:
    """The row of one setting; ``lines`` are all settings of its table."""
    method, assisted = line["method"], line["teacher"].endswith("+label")
    teaches = method == "teacher"
    role = ("label_teacher" if assisted else "teacher") if teaches else "student"
    spec = {"label_teacher": "lad", "teacher": "baseline"}.get(role) or ROWS[paper, method]
    network, teacher = _networks(line, lines, own)
    return Row(
        _label(line, lines), spec, _hyper(paper, line), role, reported=(method, line["setting"]), network=network,
        teacher=teacher, start=line["student_init"], source={k: line[k] for k in ("teacher", "student", "student_init")},
        group=line["student"] and f"{line['student']} {line['student_init']}", printed=table,
        words=_words(line),
    )  # fmt: skip


def _networks(line: Line, lines: list[Line], own: bool) -> tuple[str, str]:
    """Names of the network that is trained and of its teacher's; "" where the study's own stands for it."""
    students = {network_of(other["student"]) for other in lines if other["student"]}
    named = [other["teacher"] for other in lines if other["teacher"] not in ("", "unknown")]
    plain = [name for name in named if not name.endswith("+label")]
    ours = students if len(students) == 1 and not own else set()
    theirs = {network_of(plain[0])} if plain and not own else set()
    assisted = line["teacher"].endswith("+label")
    teacher = "" if line["teacher"] in ("", "unknown") else network_of(line["teacher"])
    if line["method"] == "teacher":
        return "" if teacher in (ours if assisted else theirs) else teacher, ""
    student = network_of(line["student"])
    same = teacher == student if assisted else teacher in theirs
    return "" if student in ours else student, "" if same else teacher


def _hyper(paper: str, line: Line) -> dict[str, Any]:
    """The hyper-parameters that a row's method and setting stand for."""
    method = line["method"]
    found = dict(ROW_HYPER.get((paper, method), {}))
    if method in ("rdd_tfe", "rdd_tse"):  # TSE alone is the same training as row c, p = 0 %
        found = {"rdd": found if method == "rdd_tfe" else {"warmup": 0.0}}
    for key, text in _parts(line["setting"]).items():
        if key in SETTINGS and (key != "p" or method == "rdd") and (key != "mode" or paper == "rdd"):
            part, name, read, _ = SETTINGS[key]
            found[part] = found.get(part, {}) | {name: read(text)}
    return found


def _parts(setting: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in setting.split(";") if "=" in part)


def _words(line: Line) -> str:
    """What a row is called without its networks: method and setting."""
    teacher = "teacher (label-assisted)" if line["teacher"].endswith("+label") else "teacher (plain, larger)"
    method = METHODS.get(line["method"]) or " + ".join(METHODS.get(part, part) for part in line["method"].split("+"))
    return ", ".join([teacher if line["method"] == "teacher" else method, *_setting_words(line["setting"])])


def _label(line: Line, lines: list[Line]) -> str:
    """What a row is called in the paper: its method and setting, and the networks where the table has several."""
    words = _setting_words(line["setting"])
    alike = [other for other in lines if (other["method"], other["setting"]) == (line["method"], line["setting"])]
    teacher, assisted = network_of(line["teacher"]), line["teacher"].endswith("+label")
    if line["method"] == "teacher":
        several = sum(other["teacher"].endswith("+label") == assisted for other in alike) > 1
        return ", ".join([f"teacher {short_name(teacher)}{' + label' * assisted}", *words]) if several else _words(line)
    label = _words(line)
    pair = line["student"], line["student_init"]
    if sum((other["student"], other["student_init"]) == pair for other in alike) > 1:
        label += f" from {short_name(teacher)}{' + label' * assisted}"
    pairs = {(other["student"], other["student_init"]) for other in lines if other["student"]}
    if len(pairs) == 1:
        return label
    scratch = pair[1] == "scratch" and sum(name == pair[0] for name, _ in pairs) > 1
    return f"{short_name(network_of(pair[0]))}{' from scratch' * scratch}: {label}"


def _setting_words(setting: str) -> list[str]:
    parts = _parts(setting)
    return [SETTINGS[key][3](text) for key, text in parts.items() if key in SETTINGS and not (key == "p" and "mode" in parts)]


def _with_baselines(rows: list[Row]) -> list[Row]:
    """The rows, and for each network without a baseline one of ours before it, so that every gain has its reference."""
    found: list[Row] = []
    known = {row.group for row in rows if row.spec == "baseline" and row.role == "student"}
    for row in rows:
        if row.role == "student" and row.group not in known:
            known.add(row.group)
            prefix = row.label.split(": ")[0] + ": " if ": " in row.label else ""
            found.append(replace(row, label=f"{prefix}baseline", spec="baseline", hyper={}, reported=None, teacher="", words="baseline"))
        found.append(row)
    return found
