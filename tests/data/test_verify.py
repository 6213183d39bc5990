"""Manifests: what they hold, that both layouts of CamVid agree with one, and what is said where a set does not."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.data import verify
from segkd.data.verify import describe, label_sha256, splits_of
from segkd.registry import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "camvid"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real CamVid beside the project")


@pytest.fixture
def segnet(kit, tmp_path):
    """CamVid in SegNet's layout, five images a split."""
    kit.sets["camvid"](tmp_path, "01234", base="CamVid")
    return tmp_path / "CamVid"


def test_a_manifest_holds_counts_sizes_histograms_and_hashes(three, kit, tmp_path):
    train = json.loads(kit.write_manifest("three", None, tmp_path).read_text())["splits"]["train"]
    assert train["images"] == 3 and train["pixels"] == {"road": 11, "sky": 10, "void": 3} and train["sizes"] == {"2x4": 3}
    by_hand = hashlib.sha256(b"2x4:" + bytes([0, 0, 1, 255, 0, 1, 1, 1])).hexdigest()
    assert list(train["labels"]) == ["a", "b", "c"] and train["labels"]["b"] == by_hand
    found = verify("three", folder=tmp_path)
    assert found["splits"]["train"] == train and found["checked"] == "counts, sizes, pixels per class, the hash of every label"
    manifest = json.loads((tmp_path / "three.json").read_text())
    for split in manifest["splits"].values():  # an old one
        del split["labels"], split["sizes"]
    (tmp_path / "three.json").write_text(json.dumps(manifest))
    assert verify("three", folder=tmp_path)["checked"] == "counts, sizes, pixels per class"


def test_a_hash_depends_on_the_shape_not_on_the_memory():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert label_sha256(label) == label_sha256(np.asfortranarray(label)) != label_sha256(label.reshape(4, 3))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda split: split.update(images=4), "3 images instead of 4"),
        (lambda split: split["pixels"].update(sky=11), "10 pixels of sky instead of 11"),
        (lambda split: split["sizes"].update({"2x4": 2, "9x9": 1}), "3 images of 2x4 instead of 2; 0 images of 9x9 instead of 1"),
        (lambda split: split["labels"].update(b="0" * 64), "has other labels for 'b';"),
        (lambda split: split["labels"].update(d="0" * 64), "lacks 'd';"),
        (lambda split: split["labels"].pop("c"), "should not have 'c';"),
    ],
)
def test_verify_says_what_differs_and_in_which_images(three, kit, tmp_path, change, message):
    path = kit.write_manifest("three", None, tmp_path)
    manifest = json.loads(path.read_text())
    change(manifest["splits"]["train"])
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"three train is not what its manifest three.json says: .*{message}.*get it again") as error:
        verify("three", folder=tmp_path)
    assert "three test" not in str(error.value) and "\n" not in str(error.value)


def test_without_a_manifest_it_is_honest(three, segnet, tmp_path):
    assert verify("three", folder=tmp_path)["checked"].startswith("only that all images can be read")
    with pytest.raises(UserError, match="camvid train is not what the catalogue says: 5 images instead of 367"):
        verify("camvid", segnet, folder=tmp_path)
    with pytest.raises(UserError, match="did you mean"):
        verify("camvd")


def test_changed_labels_are_named_up_to_three(segnet, kit, tmp_path):
    kit.write_manifest("camvid", segnet, tmp_path)
    verify("camvid", segnet, tmp_path)
    for path in (segnet / "valannot").iterdir():
        Image.fromarray(np.array(Image.open(path))[::-1].copy()).save(path)  # the same histogram: the hash alone shows it
    with pytest.raises(UserError, match="camvid val is not .*has other labels for '0', '1', '2' and 2 more; get it again.*SegNet"):
        verify("camvid", segnet, tmp_path)


def test_files_that_cannot_be_used_are_named_up_to_three(segnet):
    for index in range(4):
        (segnet / "test" / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"camvid test: 4 image\(s\) cannot be used: .*test/0.png .*test/2.png .* and 1 more"):
        describe("camvid", segnet)


def test_a_folder_has_the_splits_of_its_description(kit, tmp_path):
    kit.small_folder(tmp_path, "classes: [road, sky]\nsplits: {train: train, val: val}\n", (0,), ("train", "val"))
    assert splits_of("folder", tmp_path) == ("train", "val") and splits_of("scenes") == ("train", "val", "test")
    assert verify("folder", tmp_path)["splits"]["val"]["pixels"] == {"road": 3 * 12 * 24, "sky": 0, "void": 0}


@needs_real
@pytest.mark.slow
def test_the_original_layout_has_the_hashes_of_the_prepared_one(tmp_path):
    """The labels of the real set rewritten as SegNet has them (grey, void 11) with other images: still verified."""
    for split in ("train", "val", "test"):
        for part in (split, f"{split}annot"):
            (tmp_path / part).mkdir()
        for path in (REAL / "labels" / split).iterdir():
            label = np.array(Image.open(path))
            Image.fromarray(np.where(label == 255, 11, label).astype(np.uint8)).save(tmp_path / f"{split}annot" / path.name, compress_level=1)
            Image.new("RGB", label.shape[::-1]).save(tmp_path / split / path.name, compress_level=1)
    assert "hash of every label" in verify("camvid", tmp_path)["checked"]
    shutil.copy(tmp_path / "valannot" / "0016E5_07959.png", tmp_path / "valannot" / "0016E5_07961.png")
    with pytest.raises(UserError, match="camvid val is not .*has other labels for '0016E5_07961'"):
        verify("camvid", tmp_path)
