"""What can be wrong with a set's files: each is refused with the file's name and what to do, in one line."""

import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from segkd.data import create_dataset

ADE = "ADEChallengeData2016"
IMAGES, MASKS = f"{ADE}/images/training", f"{ADE}/annotations/training"


@pytest.fixture
def ade(kit, tree):
    kit.sets["ade20k"](tree)
    return tree


@pytest.fixture
def voc(kit, tree):
    kit.sets["voc"](tree)
    return tree / "VOCdevkit/VOC2012"


def first_mask(root):
    return root / MASKS / "ADE_train_00000000.png"


def first_image(root):
    return root / IMAGES / "ADE_train_00000000.jpg"


BREAK = {
    "mask missing": (lambda r: first_mask(r).unlink(), "no mask for 'ADE_train_00000000': get it again or take the image away"),
    "image missing": (lambda r: first_image(r).unlink(), "no image for 'ADE_train_00000000': get it again or take the mask away"),
    "mask of another size": (lambda r: Image.fromarray(np.ones((9, 9), np.uint8)).save(first_mask(r)),
                             r"0.jpg is \(12, 24\) .H, W. but its mask .*0.png is \(9, 9\)"),
    "colours": (lambda r: Image.new("RGB", (24, 12)).save(first_mask(r)), "0.png holds RGB colours where class numbers are due"),
    "16 bits": (lambda r: Image.fromarray(np.ones((12, 24), np.uint16)).save(first_mask(r)), "0.png has 16 bits or more"),
    "value": (lambda r: Image.fromarray(np.full((12, 24), 151, np.uint8)).save(first_mask(r)),
              "0.png holds the label 151 in 288 pixels: classes are 1-150, void is 0"),
    "cut off": (lambda r: first_image(r).write_bytes(first_image(r).read_bytes()[:300]), "0.jpg cannot be read"),
    "empty": (lambda r: first_image(r).write_bytes(b""), "0.jpg is empty"),
    "cmyk": (lambda r: Image.new("CMYK", (24, 12)).save(first_image(r)), "0.jpg has the colour space CMYK"),
    "two images of one name": (lambda r: (r / IMAGES / "ADE_train_00000000.JPG").write_bytes(b"x"), "have one name: rename one"),
    "no images": (lambda r: [path.unlink() for path in r.rglob("*_train_*")], "no images in .*images/training"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAK)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_bad_files(kit, ade, tmp_path, what, packed):
    damage, message = BREAK[what]
    damage(ade)
    if packed:
        kit.to_zip(tmp_path / f"{ADE}.zip", ade)
        message = f"ade20k .train. is not in .*{ADE}.zip" if what == "no images" else message
    kit.refused("ade20k", tmp_path / f"{ADE}.zip" if packed else ade, message)


def test_many_missing_are_three_and_a_number(kit, ade):
    for number in range(3, 9):
        kit.write_image(ade / IMAGES / f"ADE_train_0000000{number}.jpg")
    kit.refused("ade20k", ade, "no mask for 'ADE_train_00000003', 'ADE_train_00000004', 'ADE_train_00000005' and 3 more:")


def test_bad_lists(kit, voc):
    path = voc / "ImageSets/Segmentation/train.txt"
    for content, message in (
        (b"2007_a\n2009_x", "JPEGImages has no image for '2009_x': .*or take it off the list"),
        (b"2007_a\n2008_e", "SegmentationClass has no mask for '2008_e'"), (b"\n \n", "train.txt is empty"),
        (b"\xff\xfe\x00a", "train.txt is not UTF-8 text"), (None, "train.txt, the list of train, is not there"),
    ):  # fmt: skip
        path.write_bytes(content) if content else path.unlink()
        kit.refused("voc2012", voc, message)


def test_sbd_that_is_not_there_or_lacks_files(kit, tree):
    kit.sets["voc"](tree)
    kit.refused("voc2012_aug", tree, "has neither SegmentationClassAug nor SBD's benchmark_RELEASE: .*benchmark.tgz")
    kit.sets["voc"](tree, "sbd")
    (tree / "benchmark_RELEASE/dataset/cls/2008_e.mat").unlink()
    kit.refused("voc2012_aug", tree, "no mask for '2008_e' of the augmented list")


def test_cityscapes_has_no_test_labels_and_a_train_id_file_no_raw_ids(kit, tree):
    kit.sets["cityscapes"](tree, True)
    kit.refused("cityscapes", tree, "unknown split of cityscapes 'test'.*train, val", "test")
    path = tree / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    kit.write_mask(path, np.full(kit.SIZE, 33))
    kit.refused("cityscapes", tree, "labelTrainIds.png holds the label 33 in 288 pixels: classes are 0-18, void is 255")


def test_coco_stuff_never_has_an_empty_class(kit, tree):
    kit.sets["coco_stuff164k"](tree)
    kit.write_mask(tree / "train2017/000000000009.png", np.full(kit.SIZE, 11))
    kit.refused("coco_stuff164k", tree, "000000000009.png holds the label 11 in 288 pixels")


def test_the_first_version_of_coco_stuff_10k(kit, tree):
    """v1.0 numbers its labels 1 to 172 without gaps: its masks do not pass for those of v1.1."""
    kit.sets["coco_stuff10k"](tree)
    kit.write_mat(tree / "annotations/COCO_train2014_000000000001.mat", {"S": kit.raw_mask(range(1, 173), 0).astype(np.uint8)})
    kit.refused("coco_stuff10k", tree, "000000000001.mat holds the label (12|26|29|30|45|66|68|69|71|83|91) in")


def test_an_unsafe_archive_among_the_sets_files(kit, ade, tmp_path):
    kit.to_zip(tmp_path / f"{ADE}.zip", ade)
    with zipfile.ZipFile(tmp_path / f"{ADE}.zip", "a") as archive:
        archive.writestr("../evil", b"x")
    kit.refused("ade20k", tmp_path, rf"{ADE}.zip is not read: its member '\.\./evil' has a path")


@pytest.mark.parametrize("name", ["a b c", "ä ö", "日本語", "quote'd", "tab\there", "%41 #?&"])
def test_odd_names_work(kit, voc, name):
    kit.write_image(voc / f"JPEGImages/{name}.jpg")
    kit.write_mask(voc / f"SegmentationClass/{name}.png", np.ones(kit.SIZE))
    kit.write_list(voc / "ImageSets/Segmentation/train.txt", [name])
    assert create_dataset("voc2012", voc)[0].name == name


def test_decomposed_unicode_is_the_same_name(kit, voc):
    """Some systems store ä as a and two dots; the list and the files then differ in bytes."""
    name = "stra\u00dfe_\u00e4"
    kit.write_image(voc / f"JPEGImages/{unicodedata.normalize('NFD', name)}.jpg")
    kit.write_mask(voc / f"SegmentationClass/{name}.png", np.ones(kit.SIZE))
    kit.write_list(voc / "ImageSets/Segmentation/train.txt", [unicodedata.normalize("NFD", name)])
    assert create_dataset("voc2012", voc)[0].name == name


def test_symbolic_links_to_files_and_folders_work(kit, voc, tmp_path):
    before = create_dataset("voc2012", voc).fingerprint()
    for path in (voc / "JPEGImages", voc / "SegmentationClass/2007_a.png"):
        path.symlink_to(path.rename(tmp_path / f"moved_{path.name}"))
    assert create_dataset("voc2012", voc).fingerprint() == before
    assert create_dataset("voc2012", voc)[0].image.shape == (12, 24, 3)
