"""``folder``: a user's own images and masks by a segkd.yaml, in every form of masks and splits, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segkd.data import create_dataset
from segkd.data.readers.folder_config import parse_config, place_of
from segkd.registry import UserError

ROADS = {"classes": ["road", "crack"]}


def describe(root, **values):
    (root / "segkd.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))


def fill(kit, root, splits=("train", "val", "test"), values=(0, 1, 255), count=3):
    for split in splits:
        for number in range(count):
            kit.write_image(root / "images" / split / f"{number} a.jpg", number)
            kit.write_mask(root / "masks" / split / f"{number} a.png", kit.raw_mask(values, number))
    return root


def test_the_least_description(kit, tree):
    describe(fill(kit, tree), **ROADS)
    data = create_dataset("folder", tree, "val")
    assert (data.name, data.classes, data.num_classes, data.palette) == ("folder", ("road", "crack"), 2, ((128, 0, 0), (0, 128, 0)))
    assert data.names == ["0 a", "1 a", "2 a"]
    np.testing.assert_array_equal(data[1].label, kit.raw_mask((0, 1, 255), 1))
    assert data[1].image.shape == (12, 24, 3)


def test_found_by_folder_environment_archive_and_other_name(kit, tree, tmp_path, monkeypatch):
    describe(fill(kit, tree), **ROADS)
    first = create_dataset("folder", tree)
    kit.to_zip(tmp_path / "mine.zip", tree)
    kit.to_tar(tmp_path / "mine.tar", tmp_path, ["tree"])  # with its folder inside
    (tree / "roads.yaml").write_text((tree / "segkd.yaml").read_text())
    monkeypatch.setenv("SEGKD_DATA", str(tree))
    for root in (None, tree, tmp_path / "mine.zip", tmp_path / "mine.tar", tree / "roads.yaml"):
        data = create_dataset("folder", root)
        assert data.names == first.names and data.fingerprint() == first.fingerprint()
        np.testing.assert_array_equal(data[2].label, first[2].label)
    with pytest.raises(UserError, match=r"no segkd.yaml in .*docs/your-own-data.md\)$"):
        create_dataset("folder", tree / "images")
    with pytest.raises(UserError, match="there is no .*/tre: did you mean .*/tree"):
        create_dataset("folder", tmp_path / "tre")
    monkeypatch.setenv("SEGKD_DATA", str(tree / "images"))
    with pytest.raises(UserError, match="no segkd.yaml in .*or point SEGKD_DATA at where it is"):
        create_dataset("folder")


def test_values_of_classes_and_no_void(kit, tree):
    """Binary masks with 0 and 255: 255 is a class, so nothing is ignored unless it is said."""
    describe(fill(kit, tree, values=(0, 255)), classes=["road", {"name": "crack", "value": 255, "colour": "#ff0000"}])
    data = create_dataset("folder", tree)
    np.testing.assert_array_equal(data[0].label, kit.raw_mask((0, 1), 0))
    assert data.palette[1] == (255, 0, 0)


def test_several_values_to_ignore(kit, tree):
    describe(fill(kit, tree, values=(0, 1, 7, 9)), ignore=[7, 9], **ROADS)
    np.testing.assert_array_equal(create_dataset("folder", tree)[0].label, kit.raw_mask((0, 1, 255, 255), 0))


def test_palette_masks(kit, tree):
    for split in ("train",):
        kit.write_image(tree / "images" / split / "a.png")
        kit.write_mask(tree / "masks" / split / "a.png", kit.raw_mask((0, 1, 255), 0), palette=True)
    for holds in ("palette", "index"):
        describe(tree, masks_hold=holds, **ROADS)
        np.testing.assert_array_equal(create_dataset("folder", tree)[0].label, kit.raw_mask((0, 1, 255), 0))


@pytest.mark.parametrize("palette", [False, True], ids=["rgb", "palette"])
def test_masks_of_colours(kit, tree, palette):
    colours = np.array([[128, 64, 128], [255, 0, 0], [0, 0, 0], [255, 255, 255]], np.uint8)
    raw = kit.raw_mask(range(4), 0)
    picture = Image.fromarray(raw.astype(np.uint8)) if palette else Image.fromarray(colours[raw])
    if palette:
        picture.putpalette(colours.tobytes())
    kit.write_image(tree / "images/train/a.png")
    (tree / "masks/train").mkdir(parents=True)
    picture.save(tree / "masks/train/a.png")
    classes = [{"name": "road", "colour": [128, 64, 128]}, {"name": "crack", "colour": "#ff0000"}]
    describe(tree, classes=classes, masks_hold="colours", ignore=[[0, 0, 0], "ffffff"])
    np.testing.assert_array_equal(create_dataset("folder", tree)[0].label, np.array([0, 1, 255, 255])[raw])
    describe(tree, classes=classes, masks_hold="colours", ignore=[0, 0, 0])  # one colour, written as a list
    with pytest.raises(UserError, match="masks/train/a.png holds the colour #ffffff in 72 pixels.*`classes` or to `ignore`"):
        create_dataset("folder", tree)[0]


def test_sub_folders_of_other_names_and_other_places(kit, tree):
    for number in range(2):
        kit.write_image(tree / f"training/photos/trip {number}/x.jpeg", number)
        kit.write_mask(tree / f"training/labels/trip {number}/x_mask.png", np.ones(kit.SIZE))
    describe(
        tree, images="{split}/photos", masks="{split}/labels", mask_ends=["_mask.png"], splits={"train": "training"}, **ROADS
    )
    assert create_dataset("folder", tree).names == ["trip 0/x", "trip 1/x"]
    with pytest.raises(UserError, match="segkd.yaml describes no val, only train: a study needs train and val.*add it to `splits`"):
        create_dataset("folder", tree, "val")


def test_images_and_masks_in_one_folder(kit, tree):
    for number in range(9):
        kit.write_image(tree / f"all/{number}.jpg", number)
        kit.write_mask(tree / f"all/{number}_mask.png", np.ones(kit.SIZE))
    ends = {"image_ends": [".jpg"], "mask_ends": ["_mask.png"]}
    describe(tree, images="all", masks="all", splits={"train": 0.5, "val": 0.499999, "test": 0.000001}, **ends, **ROADS)
    assert sorted(create_dataset("folder", tree).names + create_dataset("folder", tree, "val").names) == list("012345678")
    with pytest.raises(UserError, match="segkd.yaml: none of 9 images falls into test, 1e-06 of all: add images or use lists"):
        create_dataset("folder", tree, "test")


def test_lists(kit, tree):
    for name in "abc":
        kit.write_image(tree / f"images/{name}.x.jpg")
        kit.write_mask(tree / f"masks/{name}.x.png", np.ones(kit.SIZE))
    describe(tree, splits={"train": "lists/train.txt", "test": "test.txt"}, **ROADS)
    kit.write_list(tree / "lists/train.txt", ["c.x.jpg", "a.x"])  # with or without the ending
    assert create_dataset("folder", tree).names == ["a.x", "c.x"]
    with pytest.raises(UserError, match="test.txt, the list of test, is not there: .*segkd.yaml"):
        create_dataset("folder", tree, "test")


@pytest.mark.parametrize("left", [
    ".ipynb_checkpoints/0-checkpoint", "._0", ".hidden/x", "@eaDir/0", "__MACOSX/0", "a/.ipynb_checkpoints/0", "Thumbs.db", "notes.txt",
])
def test_what_systems_and_tools_leave_is_no_data(kit, tree, left):
    """In the images alone or in both, in a folder as in an archive."""
    kit.small_folder(tree)
    before = create_dataset("folder", tree)
    for part in ("images", "masks"):
        path = tree / f"{part}/train" / (left if "." in left[2:] else left + ".png")
        kit.write_image(path.with_suffix(".png"), 9)
        path.with_suffix(".png").rename(path)
        for root in (tree, tree.parent / f"{part}.zip"):
            if root != tree:
                kit.to_zip(root, tree)
            after = create_dataset("folder", root)
            assert after.names == before.names == ["0", "1", "2"] and after.fingerprint() == before.fingerprint()


SHARES = b"classes: [a]\nsplits: {test: 0.2, train: 0.7, val: 0.1}"


@given(st.lists(st.text(min_size=1), unique=True, max_size=60), st.sets(st.integers(0, 59)))
def test_shares_take_each_name_once_and_never_move_it(names, removed):
    config = parse_config(SHARES, "segkd.yaml")
    whole = {name: [split for split in ("train", "val", "test") if config.in_share(split, name)] for name in names}
    assert all(len(splits) == 1 for splits in whole.values())
    other = parse_config(b"classes: [a]\nsplits: {train: 0.7, val: 0.1, test: 0.2}", "other.yaml")  # the order does not matter
    for place, name in enumerate(names):
        if place not in removed:
            assert other.in_share(whole[name][0], name)


def test_shares_are_kept_on_the_whole_and_golden():
    config = parse_config(SHARES, "segkd.yaml")
    names = [f"image_{number:05d}" for number in range(10_000)]
    found = {split: sum(config.in_share(split, name) for name in names) for split in ("train", "val", "test")}
    assert sum(found.values()) == 10_000
    assert abs(found["train"] - 7000) < 140 and abs(found["val"] - 1000) < 90 and abs(found["test"] - 2000) < 120  # 3 sigma
    known = {"a": 0xCA978112CA1B, "abc": 0xBA7816BF8F01}  # the first digits of their SHA-256
    assert {name: place_of(name) * 2**48 for name in known} == known


def test_a_new_image_moves_no_other(kit, tree):
    for number in range(30):
        kit.write_image(tree / f"images/{number}.png")
        kit.write_mask(tree / f"masks/{number}.png", np.ones(kit.SIZE))
    describe(tree, splits={"train": 0.6, "val": 0.2, "test": 0.2}, **ROADS)
    before = {split: create_dataset("folder", tree, split).names for split in ("train", "val", "test")}
    assert sum(map(len, before.values())) == 30
    kit.write_image(tree / "images/new.png")
    kit.write_mask(tree / "masks/new.png", np.ones(kit.SIZE))
    after = {split: create_dataset("folder", tree, split).names for split in before}
    assert all(set(before[split]) <= set(after[split]) for split in before) and sum(map(len, after.values())) == 31


BAD = {
    "clases: [a]": "unknown key in x.yaml: 'clases': did you mean 'classes'",
    "{}": "x.yaml: classes must be a list that is not empty, not None",
    "classes: road": "classes must be a list that is not empty, not 'road'",
    "classes: [yes]": "a class needs a name, not True .put yes, no and numbers in quotes",
    "classes: [a, a]": "two classes are called 'a'",
    "classes: [{name: a, color: red}]": "unknown key of a class in x.yaml: 'color': did you mean 'colour'",
    "classes: [{name: a, colour: red}]": "'red' is no colour: write .255, 0, 0. or '#ff0000'",
    "classes: [{name: a, colour: [0, 0, 256]}]": r"\[0, 0, 256\] is no colour",
    "classes: [{name: a, value: 300}]": "300 is no mask value: index masks hold 0 to 255",
    "classes: [{name: a, value: 1}, b]": "the mask value 1 .* is given twice",
    "classes: [a]\nignore: 0": "the mask value 0 .* is given twice",
    "classes: [a]\nignore: dark": "'dark' is no mask value",
    "classes: [a]\nmasks_hold: rgb": "unknown masks_hold in x.yaml: 'rgb'",
    "classes: [a]\nmasks_hold: colours": "class 'a' needs a `colour` and no `value`",
    "classes: [{name: a, colour: [1, 2, 3]}]\nmasks_hold: colours\nignore: '#010203'": "colour #010203. is given twice",
    "classes: [a]\nsplits: {training: x}": "unknown split in x.yaml: 'training': did you mean 'train'",
    "classes: [a]\nsplits: {train: 0.5, val: 0.4}": "shares of the splits add up to 0.9",
    "classes: [a]\nsplits: {train: 0.5, val: val.txt}": "splits must all be sub-folders, all lists",
    "classes: [a]\nsplits: {train: 1.5}": "splits must all be",
    "classes: [a]\nsplits: {train: ../x}": "splits '../x' leads out of the data set",
    "classes: [a]\nimages: /etc": "images '/etc' leads out",
    "classes: [a]\nmasks: a/../../b": "masks 'a/../../b' leads out",
    "classes: [a]\nimages: 3": "images must be a text",
    "classes: [a]\nimage_ends: [1]": "image_ends lists endings",
    "classes: [a]\nimages: x\nmasks: x\nimage_ends: [.png]\nmask_ends: [.png]": "images and masks are the same files",
    "classes: [a]\nimages: '{split}'\nsplits: {train: 1.0}": "has sub-folders for splits that are shares",
    "classes: [a]\nclasses: [b]": "the key 'classes' is given twice",
    "classes: [a": "x.yaml is not YAML that can be read",
    "- a": "x.yaml must hold keys and values",
    "": "x.yaml must hold keys and values",
    "classes: !!python/object/apply:os.system [ls]": "x.yaml is not YAML that can be read",
    "? [a, b]\n: c": "x.yaml is not YAML that can be read",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_descriptions(text):
    with pytest.raises(UserError, match=BAD[text]) as caught:
        parse_config(text.encode(), "x.yaml")
    assert "\n" not in str(caught.value) and "x.yaml" in str(caught.value)


def test_too_many_classes_and_too_long_a_file():
    with pytest.raises(UserError, match="256 classes, at most 255"):
        parse_config(yaml.safe_dump({"classes": [f"c{n}" for n in range(256)]}).encode(), "x.yaml")
    with pytest.raises(UserError, match="x.yaml has [0-9]+ bytes"):
        parse_config(b"#" * 2_000_000, "x.yaml")


@given(st.one_of(st.binary(max_size=60), st.text(alphabet="abc:[]{},&*!|>-'\" \n\t0.5?", max_size=60).map(str.encode)))
def test_no_description_makes_anything_but_a_user_error(data):
    try:
        parse_config(data, "x.yaml")
    except UserError as error:
        assert "\n" not in str(error)


def test_the_examples_of_the_documentation_are_right():
    """Each YAML block of docs/your-own-data.md; a block without classes is a part of a description that has some."""
    text = (Path(__file__).parents[2] / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(blocks) == 6
    for block in blocks:
        parse_config((block if "classes:" in block else f"classes: [a]\n{block}").encode(), "docs")
    whole = parse_config(blocks[1].encode(), "docs")
    assert (whole.classes, whole.ids.ids, whole.ids.void) == (("road", "crack", "pothole"), (0, 7, 2), (255,))


def test_folders_and_masks_that_do_not_fit(kit, tree):
    describe(fill(kit, tree, splits=("train",)), **ROADS)
    with pytest.raises(UserError, match="images/val is not there, which .*segkd.yaml names"):
        create_dataset("folder", tree, "val")
    describe(tree, masks_hold="palette", **ROADS)
    with pytest.raises(UserError, match="masks/train/0 a.png has no palette"):
        create_dataset("folder", tree)[0]
    describe(tree, classes=["road"])
    with pytest.raises(UserError, match="masks/train/0 a.png holds the label 1 in 96 pixels: classes are 0, void is 255"):
        create_dataset("folder", tree)[0]
    kit.write_image(tree / "images/train/0 a.webp")
    with pytest.raises(UserError, match="0 a.webp and .*0 a.jpg have one name: rename one"):
        create_dataset("folder", tree)
