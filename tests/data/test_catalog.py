"""Data sets by name: what they offer, wrong names, the lookup of folders."""

import numpy as np
import pytest

import segkd.data.catalog as catalog
from segkd.data import create_dataset, list_datasets
from segkd.data.overview import command
from segkd.registry import UserError


def test_names_and_splits():
    assert {"scenes", "camvid", "cityscapes", "folder"} <= set(list_datasets())
    with pytest.raises(UserError, match="did you mean 'camvid'"):
        create_dataset("camvd")
    with pytest.raises(UserError, match="did you mean 'train'"):
        create_dataset("scenes", split="trian")


def test_scenes_have_camvids_sizes_and_classes_and_are_drawn_at_the_size_asked_for():
    for split, count in {"train": 367, "val": 101, "test": 233}.items():
        data = create_dataset("scenes", split=split)
        assert (len(data), data.name, data.split, data.num_classes) == (count, "scenes", split, 11)
        assert len(data.palette) == 11 and len(set(data.names)) == count
    image, label, name = data[3]
    assert image.shape == (180, 240, 3) and label.shape == (180, 240) and name == "test_0003"
    small = data.at_size((24, 32))
    assert small[3].image.shape == (24, 32, 3) and small[3].label.dtype == np.uint8
    assert small.names == data.names and small.fingerprint() == data.fingerprint()
    assert data.fingerprint() != create_dataset("scenes", split="val").fingerprint()


def test_indices_count_like_a_list(three):
    data = create_dataset("three")
    assert data[-1].name == "c" and data[np.int64(1)].name == "b"
    assert [sample.name for sample in data] == ["a", "b", "c"]
    with pytest.raises(IndexError, match="has 3 images"):
        data[3]


def test_root_lookup_order(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roads").mkdir()
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "roads"))
    found = [str(path.relative_to(tmp_path)) for path in catalog.root_candidates(None, ("camvid", "CamVid"))[:4]]
    assert found == ["roads", "roads/camvid", "roads/CamVid", "data/raw/camvid"]
    given = [str(path.relative_to(tmp_path)) for path in catalog.root_candidates(tmp_path / "roads", ("camvid", "CamVid"))]
    assert given == ["roads", "roads/camvid", "roads/CamVid"]
    monkeypatch.delenv("SEGKD_DATA")
    assert str(catalog.root_candidates(None, ("camvid",))[0]) == str(tmp_path / "data/raw/camvid")


@pytest.mark.parametrize("call", [lambda: create_dataset("folder"), lambda: list(command([])), lambda: list(command(["folder"]))])
def test_a_place_that_was_named_and_is_not_there(monkeypatch, kit, tmp_path, call):
    """Another set of the same name in data/raw is not taken in its place."""
    kit.small_folder(tmp_path / "data/raw/folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "CHECKOUT", tmp_path)
    (tmp_path / "roads").mkdir()
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "raods"))
    with pytest.raises(UserError, match="SEGKD_DATA names .*raods, which is not there: did you mean .*roads"):
        call()
    monkeypatch.delenv("SEGKD_DATA")
    assert len(create_dataset("folder")) == 3
