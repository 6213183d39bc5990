"""A student for a folder of the user's images: an example folder, and the small study of it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.config import ROOT, NetworkConfig
from segkd.data import create_dataset
from segkd.data.readers.folder import DESCRIPTION
from segkd.data.scenes import CLASSES, PALETTE, split_scene
from segkd.losses.method import create_method, list_methods
from segkd.models import check_model_name
from segkd.registry import UserError
from segkd.study.numbers.study import Study, open_study
from segkd.study.tables.papers import Row, Table
from segkd.train.check import check_config
from segkd.train.state import write_whole

EXAMPLE = ROOT / "data" / "raw" / "example-folder"
IMAGES = {"train": 60, "val": 12, "test": 24}
SIZE = (120, 160)
LONGEST = 10  # of a shape: a strip is no larger than others
TABLE = "own"
BASELINE, TEACHER = "baseline", "teacher"


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


def open_own(
    folder: Path, profile: str, method: str, seeds: str = "", devices: str = "", steps: str = "", student: str = "", teacher: str = "",
    unlabelled: int | str = 0,
) -> list[Study]:  # fmt: skip
    """A study of one table for each student: the baseline, the student of ``method``, and the teacher that the method has, if any.

    ``method`` as `segkd.create_method` takes it, such as "cwd" or "lad+cwd"; ``steps`` of a student, empty for the profile's.
    ``student``: networks, comma separated, and ``teacher`` a network, each at the profile's sizes and from its kind of weights, or a
    teacher as `open_study` takes it. ``unlabelled``: images of the folder's split of that name in each batch of the students that a
    teacher helps. Images are as large as the profile's and of the shape of the first of the folder.
    UserError as `open_study` gives it, and for steps that are no whole number above 0, and where images without
    labels teach nothing.
    """
    if steps and not (str(steps).isdecimal() and int(steps)):
        raise UserError(f"STEPS: '{steps}' is no number of steps; give a whole number above 0, or nothing for the profile's")
    if not str(unlabelled or 0).isdecimal():
        raise UserError(f"UNLABELLED: '{unlabelled}' is no number of images; give a whole number, or nothing for none")
    made = create_method(method)
    if method == BASELINE:
        raise UserError(f"METHOD: '{method}' is what a method is compared with; give one of {', '.join(list_methods())}")
    rows = [Row(BASELINE), Row(method, method)]
    if made.teacher_kind is not None:
        rows.append(Row("teacher (label-assisted)", "lad", role="label_teacher"))
    elif made.needs_teacher:
        rows.append(Row(TEACHER, role="teacher"))
    tables = {TABLE: Table(f"{folder.name}: {method} against the baseline", tuple(rows))}
    trained = ":" in teacher or bool(teacher) and Path(teacher).expanduser().exists()
    study = open_study("all", profile, "folder", seeds=seeds, devices=devices, teacher=teacher if trained else None)
    scale = study.profile
    scale = replace(scale, teacher=_called(scale.teacher, "" if trained else teacher))
    if steps:
        scale = replace(scale, schedule=replace(scale.schedule, steps=int(steps)))
    data = replace(study.setting.data, size=_of_shape(study.setting.data.size))
    sizes = [replace(scale, student=_called(scale.student, name.strip())) for name in student.split(",")]
    settings = [replace(study.setting, profile=size, data=data, unlabelled=int(unlabelled or 0)) for size in sizes]
    studies = [replace(study, setting=setting, tables=tables, all_tables=tables) for setting in settings]
    for config in studies[0].configs() if int(unlabelled or 0) else ():
        check_config(config)
    return studies


def _called(network: NetworkConfig, name: str) -> NetworkConfig:
    """The network of another name, with the same start and sizes."""
    if name:
        check_model_name(name)
    return replace(network, name=name or network.name)


def _of_shape(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """As many pixels as ``size``, in the shape of the folder's first image, but no longer than ``LONGEST`` to 1; no side below two thirds of the shorter one."""
    if size is None:
        return None
    height, width = create_dataset("folder").image_size(0)
    wanted = (math.sqrt(size[0] * size[1] * min(ratio, LONGEST)) for ratio in (height / width, width / height))
    return tuple(max(16 * round(side / 16), 2 * min(size) // 3) for side in wanted)
