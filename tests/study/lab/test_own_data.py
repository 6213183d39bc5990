"""A folder of the user's images: the example is a described folder, rows follow the method, the verdict is honest."""

import os

import numpy as np
import pytest

from segkd.data import create_dataset
from segkd.data.scenes import split_scene
from segkd.data.verify import verify
from segkd.registry import UserError
from segkd.runs import run
from segkd.study.lab import own_data
from segkd.study.tables.statistics import points

COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small example folder, and an environment that is put back."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEGKD_DATA", os.environ.get("SEGKD_DATA", ""))
    return own_data.write_example(tmp_path / "mine", COUNTS)


def test_example_reads_back_as_the_scenes_it_shows(folder):
    found = verify("folder", folder)
    assert {split: values["images"] for split, values in found["splits"].items()} == COUNTS
    image, label, name = create_dataset("folder", folder, "val")[1]
    wanted, classes = split_scene("val", 1, own_data.SIZE)
    assert np.array_equal(image, wanted) and np.array_equal(label, classes) and name == "0001"


def test_example_is_drawn_once(folder):
    mask = folder / "masks" / "train" / "0000.png"
    mask.unlink()
    own_data.write_example(folder, COUNTS)
    assert not mask.exists()


def test_a_folder_of_the_users_is_never_drawn_into(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", "")
    with pytest.raises(UserError, match="FOLDER: there is no .*typo: give the place"):
        own_data.own_folder(tmp_path / "typo")
    assert not (tmp_path / "typo").exists() and not os.environ["SEGKD_DATA"]


@pytest.mark.parametrize(
    "method, roles",
    [
        ("cwd", ["student", "student", "teacher"]),
        ("lad+cwd", ["student", "student", "label_teacher"]),
        ("kd+hwd", ["student", "student", "teacher"]),
    ],
)
def test_rows_follow_the_method(folder, method, roles):
    own_data.own_folder(folder)
    study = own_data.open_own(folder, "smoke", method)
    assert [row.role for row in study.rows(own_data.TABLE)] == roles
    configs = {c.method: c for c in study.configs()}
    teacher = configs[method].teacher
    assert teacher.id in {c.id for c in study.configs()}, "the teacher that is shown is the one that teaches"
    assert configs["baseline"].data.content and configs["baseline"].schedule == configs[method].schedule


def test_a_method_that_is_not_there_is_named(folder):
    own_data.own_folder(folder)
    with pytest.raises(UserError, match="did you mean 'cwd'"):
        own_data.open_own(folder, "smoke", "cwdd")


def test_verdict_and_choice_of_the_student(folder):
    own_data.own_folder(folder)
    both = own_data.open_own(folder, "smoke", "cwd", seeds="2")
    for config in both.configs():
        run(config, "cpu")
    scores = both.scores(own_data.TABLE).pivot(index="seed", columns="row", values="miou") * 100
    gain = scores["cwd"] - scores["baseline"]
    said = own_data.verdict(both)
    assert f"{points(gain.mean())} points" in said and "2 seeds" in said
    half = 12.706 * abs(gain[0] - gain[1]) / 2  # t of one degree of freedom; the deviation of two over their root
    assert f"interval {points(gain.mean() - half)} to {points(gain.mean() + half)}" in said
    one = own_data.verdict(own_data.open_own(folder, "smoke", "cwd", seeds="1"))
    assert f"{points(gain[0])} points" in one and "one run of each: no interval" in one
    runs = both.runs(own_data.TABLE, "cwd")
    assert own_data.best_student(both).result["val_last"] == max(r.result["val_last"] for r in runs)
