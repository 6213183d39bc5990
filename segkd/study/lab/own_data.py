"""A student for a folder of the user's images: an example folder, the small study of it, what it says, the exported file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.config import ROOT
from segkd.data.catalog import create_dataset
from segkd.data.readers.folder import DESCRIPTION
from segkd.data.scenes import CLASSES, PALETTE, split_scene
from segkd.export import Exported, export_run
from segkd.losses.method import create_method, list_methods
from segkd.registry import UserError
from segkd.runs import Run
from segkd.study.tables.papers import Row, Table
from segkd.study.tables.results import paired
from segkd.study.tables.statistics import points
from segkd.study.tables.study import Study, open_study
from segkd.train.state import write_whole

EXAMPLE = ROOT / "data" / "raw" / "example-folder"
IMAGES = {"train": 60, "val": 12, "test": 24}
SIZE = (120, 160)
TABLE = "own"
BASELINE = "baseline"


def own_folder(folder: str | Path = "") -> Path:
    """The described folder to work on, as an absolute path; without a name the example, which is drawn if it is not there.

    From here on ``DATASET=folder`` means this one, in this process and in those it starts. UserError: it cannot be read.
    """
    place = Path(folder).expanduser().resolve() if folder else write_example()
    try:
        create_dataset("folder", place)
    except UserError as error:
        raise UserError(f"FOLDER: {error}") from error
    os.environ["SEGKD_DATA"] = str(place)
    return place


def write_example(folder: Path = EXAMPLE, images: dict[str, int] | None = None) -> Path:
    """Street scenes as a user's folder would be: PNG images, palette masks (255 = void) and a description, written last."""
    if (folder / DESCRIPTION).exists():
        return folder
    for split, count in (images or IMAGES).items():
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture, label = split_scene(split, index, SIZE)
            Image.fromarray(picture).save(folder / "images" / split / f"{index:04d}.png")
            _mask(label).save(folder / "masks" / split / f"{index:04d}.png")
    rows = [f"  - {{name: {name}, colour: {list(colour)}}}" for name, colour in zip(CLASSES, PALETTE)]
    text = "\n".join(["classes:", *rows, "ignore: 255", ""])
    write_whole(folder / DESCRIPTION, lambda path: path.write_text(text))
    return folder


def _mask(label: np.ndarray) -> Image.Image:
    """A label map as a PNG with class numbers that any viewer shows in the classes' colours."""
    mask = Image.fromarray(label)
    colours = np.zeros((256, 3), dtype=np.uint8)  # all of them, or PNG would store fewer than the 8 bits that 255 needs
    colours[: len(PALETTE)] = PALETTE
    mask.putpalette(colours.tobytes())
    return mask


def open_own(folder: Path, profile: str, method: str, seeds: str = "", devices: str = "", steps: str = "") -> Study:
    """A study of one table: the baseline, the student of ``method``, and the teacher that the method has, if any.

    ``method`` as `segkd.create_method` takes it, such as "cwd" or "lad+cwd"; ``steps`` of a student, empty for the profile's.
    UserError as `open_study` gives it, and for steps that are no whole number above 0.
    """
    if steps and not (str(steps).isdecimal() and int(steps)):
        raise UserError(f"STEPS: '{steps}' is no number of steps; give a whole number above 0, or nothing for the profile's")
    made = create_method(method)
    if method == BASELINE:
        raise UserError(f"METHOD: '{method}' is what a method is compared with; give one of {', '.join(list_methods())}")
    rows = [Row(BASELINE), Row(method, method)]
    if made.teacher_kind is not None:
        rows.append(Row("teacher (label-assisted)", "lad", role="label_teacher"))
    elif made.needs_teacher:
        rows.append(Row("teacher", role="teacher"))
    tables = {TABLE: Table(f"{folder.name}: {method} against the baseline", tuple(rows))}
    study = open_study("all", profile, "folder", seeds=seeds, devices=devices)
    scale = study.profile
    if steps:
        scale = replace(scale, schedule=replace(scale.schedule, steps=int(steps)))
    return replace(study, setting=replace(study.setting, profile=scale), tables=tables, all_tables=tables)


def verdict(study: Study) -> str:
    """One sentence: what the method gained over the baseline, with its interval, and what may be said of it."""
    scores = study.scores(TABLE)
    by_row = {row: 100 * group.set_index("seed")["miou"] for row, group in scores.groupby("row")}
    method = study.rows(TABLE)[1].label
    found = paired(by_row[method], by_row[BASELINE])
    gain = f"{method} scores {points(found.mean)} points of mIoU against the baseline"
    if found.n == 1:
        return f"{gain}, in one run of each: no interval, so it may be chance. SEEDS = \"5\" gives one."
    interval = f"95 % interval {found.interval}, {found.n} seeds"
    says = {"higher": "a gain", "lower": "a loss", "inconclusive": "inconclusive: more seeds or more images are needed"}
    return f"{gain} ({interval}): {says[found.verdict]}."


def best_student(study: Study) -> Run:
    """The method's run with the highest score on val, which is what may be chosen by; test stays untouched by the choice."""
    runs = study.runs(TABLE, study.rows(TABLE)[1].label)
    return max(runs, key=lambda run: run.result["val_last"])


def export_student(run: Run) -> Exported:
    """The run as ``student.onnx`` in its folder, written and checked anew each time."""
    path = run.path / "student.onnx"
    path.unlink(missing_ok=True)
    return export_run(run, "onnx", path)
