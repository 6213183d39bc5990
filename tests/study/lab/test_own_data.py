"""A folder of the user's images: the example is a described folder, rows follow the method, networks and sizes the choice."""

import os

import numpy as np
import pytest

from segkd.data import create_dataset
from segkd.data.scenes import split_scene
from segkd.data.verify import verify
from segkd.registry import UserError
from segkd.study.lab import own_data

COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture
def folder(runs, tmp_path, monkeypatch):
    """A small example folder, and an environment that is put back."""
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
    (study,) = own_data.open_own(folder, "smoke", method)
    assert [row.role for row in study.rows(own_data.TABLE)] == roles
    configs = {c.method: c for c in study.configs()}
    teacher = configs[method].teacher
    assert teacher.id in {c.id for c in study.configs()}, "the teacher that is shown is the one that teaches"
    assert configs["baseline"].data.content and configs["baseline"].schedule == configs[method].schedule


def test_a_method_that_is_not_there_is_named(folder):
    own_data.own_folder(folder)
    with pytest.raises(UserError, match="did you mean 'cwd'"):
        own_data.open_own(folder, "smoke", "cwdd")
    with pytest.raises(UserError, match="what a method is compared with"):
        own_data.open_own(folder, "smoke", "baseline")


def test_images_without_labels_are_for_the_taught_student_alone(folder):
    own_data.own_folder(folder)
    with pytest.raises(UserError, match="'folder' has no split of images without labels"):
        own_data.open_own(folder, "smoke", "cwd", unlabelled="2")
    (folder / "images" / "unlabelled").mkdir()
    with pytest.raises(UserError, match="'folder' has no split of images without labels"):
        own_data.open_own(folder, "smoke", "cwd", unlabelled="1")
    (folder / "images" / "test" / "0002.png").rename(folder / "images" / "unlabelled" / "9.png")
    (folder / "masks" / "test" / "0002.png").unlink()
    (study,) = own_data.open_own(folder, "smoke", "cwd", unlabelled="1")
    assert {(c.method, c.teacher is None): c.unlabelled for c in study.configs()} == {("baseline", True): 0, ("cwd", False): 1}
    refused = (("hwd", "1", "hwd of method 'hwd' needs labels"), ("cwd", "two", "UNLABELLED: 'two'"), ("cwd", "-1", "'-1'"), ("cwd", "2", "has 1 images without"))
    for method, given, words in refused:
        with pytest.raises(UserError, match=words):
            own_data.open_own(folder, "smoke", method, unlabelled=given)


def test_students_share_a_teacher_and_images_keep_their_shape(folder):
    own_data.own_folder(folder)
    one, two = own_data.open_own(folder, "small", "cwd", "1", student="deeplabv3plus/efficientnet_lite0, fcn/efficientnet_lite1", teacher="fcn/resnet18")
    (first, second) = (next(c for c in s.configs() if c.method == "cwd") for s in (one, two))
    assert first.teacher == second.teacher and first.teacher.network.name == "fcn/resnet18" and first.teacher.network.weights == "imagenet"
    assert second.network.name == "fcn/efficientnet_lite1" and second.network.weights == "imagenet" and second.network.head_channels == 64
    assert first.data.size == (192, 256), "120x160 images in as many pixels as the profile's"
    with pytest.raises(UserError, match="did you mean 'deeplabv3plus/efficientnet_lite"):
        own_data.open_own(folder, "small", "cwd", student="deeplabv3plus/efficientnet_lite9")


@pytest.mark.parametrize("size, wanted", [((360, 480), (192, 256)), ((480, 360), (256, 192)), ((100, 900), (128, 672)), ((1, 10**6), (128, 704)), (None, None)])
def test_as_many_pixels_in_the_shape_of_the_images(monkeypatch, size, wanted):
    class Images:
        image_size = lambda self, index: size  # noqa: E731

    monkeypatch.setattr(own_data, "create_dataset", lambda name: Images())
    assert own_data._of_shape(size and (192, 256)) == wanted
