"""The catalogue against facts that are known otherwise: lengths, colours by rule, names of neighbouring sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkd.data import list_datasets, scenes
from segkd.ids import format_ranges
from segkd.data.readers.sets import about, catalogue, generated_palette, parse_colour, parse_ranges
from segkd.registry import UserError

CLASSES = {
    "camvid": 11, "cityscapes": 19, "ade20k": 150, "voc2012": 21, "voc2012_aug": 21, "pascal_context": 59, "pascal_context60": 60,
    "coco_stuff10k": 171, "coco_stuff164k": 171, "coco_stuff164k_182": 182,
}  # fmt: skip
COUNTS = {  # methods.md 2.3
    "camvid": [367, 101, 233], "cityscapes": [2975, 500], "ade20k": [20210, 2000], "voc2012": [1464, 1449],
    "voc2012_aug": [10582, 1449], "pascal_context": [4998, 5105], "pascal_context60": [4998, 5105],
    "coco_stuff10k": [9000, 1000], "coco_stuff164k": [118287, 5000], "coco_stuff164k_182": [118287, 5000],
}  # fmt: skip


def test_every_reader_of_files_is_in_the_catalogue():
    assert set(catalogue()) == set(CLASSES) == set(list_datasets()) - {"scenes", "folder"}


@pytest.mark.parametrize("name", CLASSES)
def test_lengths(name):
    entry = about(name)
    assert len(entry.classes) == len(entry.palette) == len(entry.ids) == CLASSES[name]
    assert len(set(entry.classes)) == CLASSES[name] and all(text == text.strip() and text for text in entry.classes)
    assert list(entry.splits.values()) == COUNTS[name]
    assert not set(entry.ids) & set(entry.void) and len(set(entry.ids)) == CLASSES[name]
    assert entry.login == (name == "cityscapes")
    assert all((entry.title, entry.cite, entry.url, entry.licence, entry.how)) and entry.folders[0] in name


def test_neighbouring_sets_agree():
    assert about("camvid").classes == scenes.CLASSES and about("camvid").palette == scenes.PALETTE
    voc = about("voc2012")
    assert voc.classes[:3] == ("background", "aeroplane", "bicycle") and voc.classes[20] == "tvmonitor"
    assert voc.palette == generated_palette(21) == about("voc2012_aug").palette
    assert about("pascal_context").classes == about("pascal_context60").classes[1:]
    assert set(voc.classes[1:]) - {"diningtable"} <= set(about("pascal_context").classes)  # 19 of VOC's objects; table is wider
    assert list(about("pascal_context").classes) == sorted(about("pascal_context").classes)
    assert (
        about("pascal_context").mat_ids == about("pascal_context60").mat_ids[1:] == tuple(sorted(about("pascal_context").mat_ids))
    )


def test_coco_stuff_leaves_out_the_eleven_that_were_never_annotated(kit):
    full, real = about("coco_stuff164k_182"), about("coco_stuff164k")
    empty = [full.classes[raw] for raw in kit.COCO_EMPTY]
    named = "street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"
    assert empty == named.split(", ")
    assert real.classes == tuple(name for raw, name in enumerate(full.classes) if raw not in kit.COCO_EMPTY)
    assert about("coco_stuff10k").classes == real.classes
    assert about("coco_stuff10k").ids == tuple(raw + 1 for raw in real.ids)
    assert full.classes.index("banner") == 91 and full.classes[181] == "wood"  # 91 things before the first stuff


def test_a_score_over_182_is_that_over_171_times_their_ratio():
    iou = np.zeros(182)
    real = np.array(about("coco_stuff164k").ids)
    iou[real] = np.random.default_rng(0).random(171)
    assert iou.mean() == pytest.approx(iou[real].mean() * 171 / 182) and round(171 / 182, 3) == 0.940


def test_wrong_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cityscapes'"):
        about("cityscape")


@given(st.sets(st.integers(0, 500)))
def test_ranges_come_back(numbers):
    assert parse_ranges(format_ranges(numbers)) == tuple(sorted(numbers))


def test_generated_colours_are_distinct():
    assert len(set(generated_palette(256))) == 256


@pytest.mark.parametrize("text", ["", "12345", "#1234567", "gg0000", "red"])
def test_no_colours(text):
    with pytest.raises(ValueError):
        parse_colour(text)
