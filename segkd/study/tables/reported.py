"""The numbers that the four papers print: found by table, row and setting in ``data/papers/reported.csv``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import pandas as pd

from segkd.config import ROOT
from segkd.study.tables.table import Row, Table

REPORTED = ROOT / "data" / "papers" / "reported.csv"
SETTING = ["dataset", "teacher", "student", "student_init", "method", "setting"]  # what tells the rows of a table apart

DATA_NAMES = {
    "cityscapes": "Cityscapes", "camvid": "CamVid", "voc2012": "VOC 2012", "ade20k": "ADE20K",
    "pascal_context": "Pascal Context", "coco_stuff10k": "COCO-Stuff 10K", "coco_stuff164k": "COCO-Stuff 164K",
}  # fmt: skip
HEADS = {
    "deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3+", "pspnet": "PSPNet", "fcn": "FCN", "isanet": "ISANet",
    "ocrnet": "OCRNet", "dinov2": "DINOv2",
}  # fmt: skip
ENCODERS = {
    "resnet18": "R18", "resnet50": "R50", "resnet101": "R101", "mobilenet_v2": "MBV2", "hrnet_w18_small": "W18s",
    "hrnet_w18": "W18", "hrnet_w48": "W48", "stdc1": "STDC1", "stdc2": "STDC2", "vits14": "ViT-S", "vitb14": "ViT-B",
}  # fmt: skip


@lru_cache
def reported_values() -> pd.DataFrame:
    """``data/papers/reported.csv``: every number that the four papers print, as text."""
    return pd.read_csv(REPORTED, dtype=str, keep_default_na=False)


def network_of(printed: str) -> str:
    """The name in `list_models` of a network as reported.csv has it; label-assisted and LoRA networks by their plain name."""
    name = printed.removesuffix("+label").removesuffix("_lora")
    if name.startswith("stdc"):
        return f"stdc/{name}"
    if name.startswith("hrnet"):  # on its own: the fully convolutional head on all its maps
        return f"fcn/{name}"
    return name.replace("_", "/", 1)


def short_name(network: str) -> str:
    """A network of `list_models` as tables write it, such as PSPNet-R18."""
    head, encoder = network.split("/", 1)
    if head == "stdc":
        return ENCODERS[encoder]
    if head == "fcn" and encoder.startswith("hrnet"):
        return f"HRNet-{ENCODERS[encoder]}"
    return f"{HEADS.get(head, head)}-{ENCODERS.get(encoder, encoder)}"


@lru_cache
def table_lines(paper: str, table: str) -> list[dict[str, str]]:
    """The lines of reported.csv of one table."""
    values = reported_values()
    return values[(values["paper"] == paper) & (values["table"] == table)].to_dict("records")


def reported(table: Table, row: Row, metric: str = "miou") -> float:
    """What the paper prints for this row, or NaN (figures print no numbers; some rows are ours)."""
    if row.reported is None or not table.source:
        return math.nan
    method, setting = row.reported
    source = {**table.source, **row.source}
    teaches, assisted = method in ("teacher", "label_teacher"), method == "label_teacher" or row.role == "label_teacher"
    if teaches and not row.source:  # the teacher's own score has no student
        student = source.pop("student", None)
        source.pop("student_init", None)
        if method == "label_teacher":
            source["teacher"] = f"{student}+label"
    if metric not in ("miou", "macc", "miou_gain"):  # costs have no split
        source.pop("split", None)
    wanted = source | {"metric": metric, "method": "teacher" if teaches else method} | ({"setting": setting} if setting else {})
    fits = lambda line: wanted.items() <= line.items() and (not teaches or line["teacher"].endswith("+label") == assisted)  # noqa: E731
    return next((float(line["value"]) for line in table_lines(source["paper"], source["table"]) if fits(line)), math.nan)


def fitted(table: Table, dataset: str = "", student: str = "", own: bool = False) -> Table:
    """The table beside the paper's numbers for ``dataset`` and ``student`` where it has them, else as it is.

    ``own``: its rows with the network of the paper's table.
    """
    if not table.source:
        return table
    source = dict(table.source)
    lines = [line for line in table_lines(source["paper"], source["table"]) if line["student"] and line["metric"] == "miou"]
    if "student_init" in source:
        lines = [line for line in lines if line["student_init"] == source["student_init"]]
    if any(line["dataset"] == dataset for line in lines):
        source["dataset"] = dataset
    names = {network_of(line["student"]): line["student"] for line in lines if line["dataset"] == source["dataset"]}
    if student in names and "student" in source:
        source["student"] = names[student]
    network = network_of(source["student"]) if own and "student" in source else ""
    rows = [replace(row, network=network) if row.role != "teacher" else row for row in table.rows]
    return replace(table, rows=tuple(rows), source=source, note=table.note or note_of(source))


def note_of(source: dict[str, str]) -> str:
    """Which of the paper's settings the printed numbers are of, such as "paper: Table 1, Cityscapes val, PSPNet-R18"."""
    data = " ".join(filter(None, [DATA_NAMES.get(source["dataset"], source["dataset"]), source.get("split", "")]))
    student = short_name(network_of(source["student"])) if source.get("student") else ""
    start = {"imagenet": "from ImageNet weights", "scratch": "from scratch"}.get(source.get("student_init", ""), "")
    over = {line["note"] for line in table_lines(source["paper"], source["table"]) if line["note"].startswith("gain over")}
    return "paper: " + ", ".join(filter(None, [source["table"], data, " ".join(filter(None, [student, start])), *over]))
