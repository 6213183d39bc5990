"""One image in two splits: by lists, by copies under another name, by a trainaug.txt that holds val; and the switch."""

import shutil

import pytest

from segkd.data.store import pack
from segkd.data.verify import verify
from segkd.registry import UserError


def by_lists(kit, root):
    kit.small_folder(root, "classes: [road, crack]\nimages: images/train\nmasks: masks/train\nsplits: {train: train.txt, val: val.txt}")
    kit.write_list(root / "train.txt", ["0", "1"])
    kit.write_list(root / "val.txt", ["1", "2"])
    return "folder", r"folder: 1 image\(s\) of train are in val too.*: '1'; take them out .*SEGKD_ALLOW_OVERLAP=1"


def by_copies(kit, root):
    kit.small_folder(root)
    for part in ("images", "masks"):
        shutil.copy(root / f"{part}/train/2.png", root / f"{part}/test/copy.png")
    return "folder", r"folder: 1 image\(s\) of train are in test too.*: '2 = copy'"


def by_trainaug(kit, root):
    kit.sets["voc"](root, "png")
    kit.write_list(root / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt", ["2007_a", "2007_c"])
    return "voc2012_aug", r"voc2012_aug: 1 image\(s\) of train are in val too.*: '2007_c'"


@pytest.mark.parametrize("build", [by_lists, by_copies, by_trainaug])
def test_an_image_in_two_splits_is_refused_unless_it_is_meant(kit, tree, tmp_path, monkeypatch, build):
    name, message = build(kit, tree)
    actions = [lambda: pack(name, "train", (4, 4), tree, tmp_path / "packed")]
    if name == "folder":  # VOC would also differ from its counts
        actions.append(lambda: verify(name, tree))
    for action in actions:
        with monkeypatch.context() as patch:
            with pytest.raises(UserError, match=message):
                action()
            assert not list((tmp_path / "packed").glob("*.npy"))
            patch.setenv("SEGKD_ALLOW_OVERLAP", "1")
            action()
            shutil.rmtree(tmp_path / "packed", ignore_errors=True)


def test_equal_names_in_other_folders_are_other_images(kit, tree, tmp_path):
    kit.small_folder(tree)
    assert len(pack("folder", "train", (4, 4), tree, tmp_path)) == 3
