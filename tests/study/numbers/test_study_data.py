"""Which images a study uses: sizes by profile, the split that counts, and a described folder known by its content."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import segkd
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data import list_datasets
from segkd.data.catalog import DATASETS
from segkd.data.readers.folder import content
from segkd.registry import UserError
from segkd.runs import split_of
from segkd.study.lab import views
from segkd.study.numbers.study import open_study
from segkd.study.tables.profiles import PROFILES, get_profile
from segkd.train.check import check_config

SIZES = {"train": [(40, 50), (34, 60), (55, 36), (64, 40)], "val": [(38, 52), (51, 47), (36, 36)]}


@pytest.fixture
def roads(tmp_path, runs, monkeypatch):
    """A described folder of images of many sizes, found through SEGKD_DATA; no test split."""
    rng = np.random.default_rng(0)
    for split, sizes in SIZES.items():
        for kind in ("images", "masks"):
            (tmp_path / "roads" / kind / split).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"roads/images/{split}/{number}.png")
            Image.fromarray(rng.integers(0, 3, size).astype(np.uint8)).save(tmp_path / f"roads/masks/{split}/{number}.png")
    (tmp_path / "roads" / "segkd.yaml").write_text("classes: [road, kerb, Car]\nsplits: {train: train, val: val}\n")
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "roads"))
    return tmp_path / "roads"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_knows_every_data_set(profile):
    for name in list_datasets():
        splits = DATASETS.get(name).splits
        data = get_profile(profile).data_config(name, splits)
        assert data.name == name and data.split in splits and (data.size or data.crop)
    with pytest.raises(UserError, match="'camvidd'.*camvid"):
        get_profile(profile).data_config("camvidd")


def test_a_described_folder_is_known_by_its_content(roads, tmp_path):
    study = open_study("hwd", "smoke", "folder")
    before = study.configs()[0]
    assert study.data.split == "val" and "validated on val, no checkpoint chosen on it" in study.facts()["data"]
    assert study.data.content == content(roads) and len(study.data.content) == 8
    moved = tmp_path / "elsewhere"
    roads.rename(moved)
    assert content(moved) == study.data.content
    here = dataclasses.replace(before, data=dataclasses.replace(before.data, root=str(moved)))
    assert here.id == before.id
    check_config(here)
    mask = np.asarray(Image.open(moved / "masks/val/0.png")).copy()
    mask[0, 0] = 2 - mask[0, 0] // 2
    Image.fromarray(mask).save(moved / "masks/val/0.png")
    with pytest.raises(UserError, match=f"data.content '{study.data.content}', .* its content is {content(moved)}; give that"):
        check_config(here)


def test_content_is_for_described_folders_only():
    with pytest.raises(UserError, match="only a described folder has; leave it out"):
        check_config(RunConfig(data=DataConfig(content="0123abcd")))


def test_images_of_many_sizes_are_trained_on_crops_and_scored_whole(roads):
    data = DataConfig("folder", None, (33, 40), split="val", content=content(roads))
    config = RunConfig(data, NetworkConfig("fcn/resnet18", 0.0625), Schedule("adamw", steps=2, batch_size=3, validations=1))
    run = segkd.run(config)
    pixels = sum(height * width for height, width in SIZES["val"])
    assert run.result["images"] == 3 and np.sum(run.result["confusion"]) == pixels
    with pytest.raises(UserError, match="give data.crop, or data.size"):
        split_of(dataclasses.replace(config, data=dataclasses.replace(data, crop=None)), "train")


def test_the_class_that_is_explained(roads):
    study = open_study("lad", "smoke", "folder")
    assert views.target_class(study) == 2 and views.target_class(study, "KERB") == 1
    with pytest.raises(UserError, match="class of folder: 'kerp'.*kerb"):
        views.target_class(study, "kerp")
