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

ROADS = "classes: [road, crack]\n"


def test_the_least_description(kit, tree):
    data = create_dataset("folder", kit.small_folder(tree), "val")
    assert (data.name, data.classes, data.num_classes, data.palette) == ("folder", ("road", "crack"), 2, ((128, 0, 0), (0, 128, 0)))
    assert data.names == ["0", "1", "2"]
    np.testing.assert_array_equal(data[1].label, kit.raw_mask((0, 1, 255), 1))
    assert data[1].image.shape == (12, 24, 3)


def test_found_by_folder_environment_archive_and_other_name(kit, tree, tmp_path, monkeypatch):
    first = create_dataset("folder", kit.small_folder(tree))
    kit.to_zip(tmp_path / "mine.zip", tree)
    kit.to_tar(tmp_path / "mine.tar", tmp_path, ["tree"])  # with its folder inside
    (tree / "roads.yaml").write_text(ROADS)
    monkeypatch.setenv("SEGKD_DATA", str(tree))
    for root in (None, tree, tmp_path / "mine.zip", tmp_path / "mine.tar", tree / "roads.yaml"):
        data = create_dataset("folder", root)
        assert data.names == first.names and data.fingerprint() == first.fingerprint()
        np.testing.assert_array_equal(data[2].label, first[2].label)
    kit.refused("folder", tree / "images", r"no segkd.yaml in .*docs/your-own-data.md\)$")
    kit.refused("folder", tmp_path / "tre", "there is no .*/tre: did you mean .*/tree")
    monkeypatch.setenv("SEGKD_DATA", str(tree / "images"))
    kit.refused("folder", None, "no segkd.yaml in .*or point SEGKD_DATA at where it is")


COLOURS = "classes: [{name: road, colour: [128, 64, 128]}, {name: crack, colour: '#ff0000'}]\nmasks_hold: colours\nignore: "
SHOWN = np.array([[128, 64, 128], [255, 0, 0], [0, 0, 0], [255, 255, 255]], np.uint8)


@pytest.mark.parametrize("description, holds, values, want", [
    ("classes: [road, {name: crack, value: 255}]", "grey", (0, 255), (0, 1)),  # a class, so that nothing is ignored unless it is said
    (ROADS + "ignore: [7, 9]", "grey", (0, 1, 7, 9), (0, 1, 255, 255)),
    (ROADS + "masks_hold: palette", "palette", (0, 1, 255), (0, 1, 255)), (ROADS, "palette", (0, 1, 255), (0, 1, 255)),
    (COLOURS + "[[0, 0, 0], 'ffffff']", "palette", range(4), (0, 1, 255, 255)),
    (COLOURS + "[[0, 0, 0], 'ffffff']", "colours", range(4), (0, 1, 255, 255)),
    (COLOURS + "[0, 0, 0]", "colours", range(4), "holds the colour #ffffff in 72 pixels.*`classes` or to `ignore`"),  # one colour, as a list
    (COLOURS.removesuffix("ignore: "), "colours", (0, 1), (0, 1)),
    (ROADS + "masks_hold: palette", "grey", (0, 1), "has no palette"),
    ("classes: [road]", "grey", (0, 1, 255), "holds the label 1 in 96 pixels: classes are 0, void is 255"),
])  # fmt: skip
def test_what_masks_hold(kit, tree, description, holds, values, want):
    kit.small_folder(tree, description)
    raw = kit.raw_mask(values, 0)
    picture = Image.fromarray(SHOWN[raw] if holds == "colours" else raw.astype(np.uint8))
    if holds == "palette":
        picture.putpalette(SHOWN.tobytes().ljust(768, b"\0"))
    picture.save(tree / "masks/train/0.png")
    if isinstance(want, str):
        return kit.refused("folder", tree, f"masks/train/0.png {want}")
    np.testing.assert_array_equal(create_dataset("folder", tree)[0].label, kit.raw_mask(want, 0))


def test_sub_folders_of_other_names_and_other_places(kit, tree):
    for number in range(2):
        kit.write_image(tree / f"training/photos/trip {number}/x.jpeg", number)
        kit.write_mask(tree / f"training/labels/trip {number}/x_mask.png", np.ones(kit.SIZE))
    more = "images: '{split}/photos'\nmasks: '{split}/labels'\nmask_ends: [_mask.png]\nsplits: {train: training}"
    (tree / "segkd.yaml").write_text(ROADS + more)
    assert create_dataset("folder", tree).names == ["trip 0/x", "trip 1/x"]
    kit.refused("folder", tree, "segkd.yaml describes no val, only train: a study needs train and val.*add it to `splits`", "val")


def test_shares_and_lists(kit, tree):
    for number in range(9):
        kit.write_image(tree / f"images/{number}.x.jpg", number)
        kit.write_mask(tree / f"masks/{number}.x.png", np.ones(kit.SIZE))
    (tree / "segkd.yaml").write_text(ROADS + "splits: {train: 0.5, val: 0.499999, test: 0.000001}")
    assert sorted(create_dataset("folder", tree).names + create_dataset("folder", tree, "val").names) == [f"{n}.x" for n in range(9)]
    kit.refused("folder", tree, "segkd.yaml: none of 9 images falls into test, 1e-06 of all: add images or use lists", "test")
    (tree / "segkd.yaml").write_text(ROADS + "splits: {train: lists/train.txt, test: test.txt}")
    kit.write_list(tree / "lists/train.txt", ["2.x.jpg", "0.x"])  # with or without the ending
    assert create_dataset("folder", tree).names == ["0.x", "2.x"]
    kit.refused("folder", tree, "test.txt, the list of test, is not there: .*segkd.yaml", "test")


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


BAD = {
    "clases: [a]": "unknown key of x.yaml: 'clases': did you mean 'classes'",
    "{}": "x.yaml: classes: expected list that is not empty, got None",
    "classes: road": "classes: expected list that is not empty, got 'road'",
    "classes: [yes]": "class 1.name: expected str .* .put yes, no and numbers in quotes., got True",
    "classes: [a, a]": "two classes are called 'a'",
    "classes: [{name: a, color: red}]": "unknown key of x.yaml: class 1: 'color': did you mean 'colour'",
    "classes: [{name: a, colour: red}]": "x.yaml: class 1.colour: expected .int, int, int. from 0 to 255 or str such as '#ff0000' or None, got 'red'",
    "classes: [{name: a, colour: [0, 0, 256]}]": r"class 1.colour: .*, got \[0, 0, 256\]",
    "classes: [{name: a, value: 300}]": "class 1.value: expected int from 0 to 255 or None, got 300",
    "classes: [{name: a, value: 1}, b]": "the mask value 1 .* is given twice",
    "classes: [a]\nignore: 0": "the mask value 0 .* is given twice",
    "classes: [a]\nignore: dark": "ignore: expected int from 0 to 255, got 'dark'",
    "classes: [a]\nmasks_hold: rgb": "x.yaml: masks_hold: 'rgb'",
    "classes: [a]\nmasks_hold: colours": "class 'a' needs a `colour` and no `value`",
    "classes: [{name: a, colour: [1, 2, 3]}]\nmasks_hold: colours\nignore: '#010203'": "colour #010203. is given twice",
    "classes: [a]\nsplits: {training: x}": "unknown split of x.yaml: splits: 'training': did you mean 'train'",
    "classes: [a]\nsplits: {train: 0.5, val: 0.4}": "shares of the splits add up to 0.9",
    "classes: [a]\nsplits: {train: 0.5, val: val.txt}": "splits must all be sub-folders, all lists",
    "classes: [a]\nsplits: {train: 1.5}": "splits.train: expected float above 0, at most 1 or str .*, got 1.5",
    "classes: [a]\nsplits: {train: ../x}": "splits.train: .* does not lead out of the data set, got '../x'",
    "classes: [a]\nimages: /etc": "images: .* lead out .* '/etc'",
    "classes: [a]\nmasks: a/../../b": "masks: .* lead out .* 'a/../../b'",
    "classes: [a]\nimages: 3": "images: expected str",
    "classes: [a]\nimage_ends: [1]": "image_ends: expected list of str such as .png or _mask.png that is not empty",
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


def test_folders_and_images_that_do_not_fit(kit, tree):
    kit.small_folder(tree, splits=("train",))
    kit.refused("folder", tree, "images/val is not there, which .*segkd.yaml names", "val")
    kit.write_image(tree / "images/train/0.webp")
    kit.refused("folder", tree, "0.webp and .*0.png have one name: rename one")
