"""List files and layouts as others write them: read where one meaning is left, else refused with the line, the endings, the folders."""

import numpy as np
import pytest

from segkd.data import create_dataset

FORMS = [  # of a line for image "00" in images/train, mask in masks/train
    "{}", "{}.jpg", "./{}.jpg", "images/train/{}.jpg", "train/{}.jpg", "train\\{}.jpg", '"{}"', "{}.jpg {}.png", "{}.jpg\t{}.png",
    "{}.jpg,{}.png", "/images/train/{}.jpg /masks/train/{}.png", "/disk/my data/images/train/{}.jpg /disk/my data/masks/train/{}.png",
    "C:\\roads\\images\\train\\{}.jpg C:\\roads\\masks\\train\\{}.png", "# 0\n\n{}", "\ufeff{}", "{}\r",
]  # fmt: skip
DESCRIPTION = "classes: [road, crack]\nimages: images/train\nmasks: masks/train\nsplits: {train: train.txt}"


@pytest.fixture
def roads(kit, tree):
    for number in range(3):
        kit.write_image(tree / f"images/train/0{number}.jpg", number)
        kit.write_mask(tree / f"masks/train/0{number}.png", np.eye(*kit.SIZE))
    (tree / "segkd.yaml").write_text(DESCRIPTION)
    return tree


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["folder", "voc2012", "camvid"])
def test_lines_with_one_meaning(kit, roads, name, form):
    """The same lines in each reader; a list's folders are those of the set."""
    images, masks = {"folder": ("images/train", "masks/train"), "voc2012": ("JPEGImages", "SegmentationClass"),
                     "camvid": ("train", "trainannot")}[name]  # fmt: skip
    for number in range(3 if name != "folder" else 0):
        kit.write_image(roads / f"{images}/0{number}.{'png' if name == 'camvid' else 'jpg'}", number)
        kit.write_mask(roads / f"{masks}/0{number}.png", np.eye(*kit.SIZE))
    line = form.replace("images/train", images).replace("masks/train", masks).replace("images\\train", images).replace("masks\\train", masks)
    if name == "camvid":
        line = line.replace(".jpg", ".png")
    if name == "voc2012":
        line = line.replace("train/", "JPEGImages/").replace("train\\", "JPEGImages\\")
    file = roads / ("ImageSets/Segmentation/train.txt" if name == "voc2012" else "train.txt")
    kit.write_list(file, [line.replace("{}", "02"), line.replace("{}", "00").lstrip("\ufeff")])
    assert create_dataset(name, roads).names == ["00", "02"]


@pytest.mark.parametrize("line, message", [
    ("00  1", "train.txt:2: images/train has no image for '00  1': .*a line is a name, or an image and its mask"),
    ("00.jpg 01.png", "train.txt:2: images/train has no image for '00.jpg 01.png'"), ("03", "has no image for '03'.*3 of .jpg"),
    ("00.gif", r"for '00.gif': .*\.jpg, \.jpeg.* count, the folder has"), ("02", "train.txt:2 names '02' twice"),
    ("../images/train/00", r"train.txt:2: '\.\./images/train/00' leads out"), ("/etc/passwd", "train.txt:2: '/etc/passwd' leads out"),
    ("a/../../x", "leads out"), ("~/x", "leads out"), ("C:\\x", "leads out"), ("..\\x", "leads out"),
])  # fmt: skip
def test_other_lines_are_refused_with_the_line(kit, roads, line, message):
    kit.write_list(roads / "train.txt", ["02", line])
    kit.refused("folder", roads, message)


@pytest.mark.parametrize("image, mask, more", [
    ("x{}.tif", "x{}_mask.tif", "image_ends: [.tif]\nmask_ends: [_mask.tif]"), ("{}.jpg", "{}.png", ""),
    ("{}.jpg", "{}.png", "image_ends: [jpg]\nmask_ends: [png]"), ("{}.png", "{}_label.png", "mask_ends: [_label.png]"),
])  # fmt: skip
def test_image_and_mask_side_by_side(kit, tree, image, mask, more):
    for number in range(3):
        kit.write_image(tree / "all" / image.format(number), number)
        kit.write_mask(tree / "all" / mask.format(number), np.eye(*kit.SIZE) * number)
    (tree / "segkd.yaml").write_text(f"classes: [a, b, c]\nimages: all\nmasks: all\nsplits: {{train: 1.0}}\n{more}\n")
    data = create_dataset("folder", tree)
    assert len(data) == 3 and data[2].label.max() == 2


def other_masks(kit, root):
    (root / "masks/train/00.png").rename(root / "masks/train/00_mask.png")
    return "folder", r"no mask for '00'.*\.png, \.bmp, \.tif, \.tiff count, the folder has '00_mask.png'"


def other_images(kit, root):
    (root / "images/train/00.jpg").rename(root / "images/train/00.jp2")
    return "folder", r"has no image for '00'.*\.jpg, .* count, the folder has '00.jp2'"


def too_deep(kit, root):
    kit.sets["cityscapes"](root / "gtFine_trainvaltest")
    return "cityscapes", "looked for the folders leftImg8bit/train and gtFine/train; there are 'gtFine_trainvaltest', 'images', 'masks'"


def polygons_alone(kit, root):
    kit.sets["cityscapes"](root)
    for path in (root / "gtFine").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_labelIds.png", "_polygons.json").replace("_instanceIds.png", "_color.json")))
    return "cityscapes", "no mask for 'aachen/.*_gtFine_labelIds.png count, the folder has '.*_gtFine_.*json'"


@pytest.mark.parametrize("change", [other_masks, other_images, too_deep, polygons_alone])
def test_what_was_looked_for_and_what_is_there(kit, roads, change):
    name, message = change(kit, roads)
    (roads / "segkd.yaml").write_text(DESCRIPTION.replace("splits: {train: train.txt}", "splits: {train: 1.0}"))
    kit.refused(name, roads, message)
