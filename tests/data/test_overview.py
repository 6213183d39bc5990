"""``segkd data``: its words, sizes and lines, and the table of sets with their states."""

import json
import re

import numpy as np
import pytest

from segkd.cli import main
from segkd.data import list_datasets, overview
from segkd.data import catalog
from segkd.data.overview import command, disk_bytes, parse_size
from segkd.data.store import pack
from segkd.registry import UserError


@pytest.fixture
def place(kit, tmp_path, monkeypatch):
    """A described folder with images of two sizes, and a place for packs."""
    monkeypatch.delenv("SEGKD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "CHECKOUT", tmp_path)
    for place, split in enumerate(("train", "val")):
        for number, size in enumerate([(4, 6), (5, 7)]):
            kit.write_image(tmp_path / f"mine/images/{split}/{number}.png", 2 * place + number, size)
            kit.write_mask(tmp_path / f"mine/masks/{split}/{number}.png", np.full(size, number))
    (tmp_path / "mine" / "segkd.yaml").write_text("classes: [road, sky]\nsplits: {train: train, val: val}\n")
    return tmp_path


def said(words, place, size=None):
    return list(command(words, place / "mine", size, place / "packed"))


def test_prepare_packs_at_own_sizes_or_at_one_and_is_idempotent(place):
    lines = said(["prepare", "folder"], place)
    assert re.fullmatch(r"folder train: 2 images at their own sizes, 0 MB in .*folder-train-native-n2-v1-\w{8}", lines[0])
    assert len(lines) == 2
    before = {path: path.stat().st_mtime_ns for path in (place / "packed").rglob("*.npy")}
    assert said(["prepare", "folder"], place) == lines and len(before) == 6
    assert {path: path.stat().st_mtime_ns for path in (place / "packed").rglob("*.npy")} == before
    assert re.search("folder val: 2 images at 3x4, ", said(["prepare", "folder"], place, "3x4")[1])


def test_verify_is_honest_and_is_remembered(place):
    assert said(["verify", "folder"], place) == [
        "folder: train 2, val 2 images verified (only that all images can be read; neither a manifest nor a count is known)"
    ]
    note = json.loads((place / "packed" / "folder.verified.json").read_text())
    assert note["place"] == str(place / "mine") and re.fullmatch(r"\d{4}-\d\d-\d\d", note["date"])


@pytest.mark.parametrize("description, values, said_of_train, refused", [
    ("classes: [background, crack]", (0, 255), " ALL ITS LABELS ARE background.* no pixel of 'crack'; 50% .*value: 255", "nothing but background"),
    ("classes: [crack]", (0, 255), " ALL ITS LABELS ARE crack.* no pixel of another class; 50%", "nothing but crack"),
    ("classes: [background, crack]", (255,), " ALL ITS LABELS ARE IGNORED.* no pixel of 'background', 'crack'; 100%", "no class at all"),
    ("classes: [a, b, c, d]", (1, 2), " no pixel of 'a', 'd'; 0% of its pixels are ignored", None),
    ("classes: [background, {name: crack, value: 255}]", (0, 255), None, None),
    ("classes: [background, crack]", (0, 1, 255), None, None),
])  # fmt: skip
def test_labels_that_hold_less_than_they_should(kit, tmp_path, description, values, said_of_train, refused):
    """A value that means a class is swallowed by ignore, a class never appears, one class alone, all void."""
    kit.small_folder(tmp_path / "mine", description, values)
    lines = said(["verify", "folder"], tmp_path)
    assert len(lines) == (4 if said_of_train else 1) and ("; ignored pixels: train " in lines[0]) == (255 in values and "255" not in description)
    assert not said_of_train or re.fullmatch(f"folder train: CHECK THE LABELS:{said_of_train}.*", lines[1])
    if refused is None:
        assert len(said(["folder"], tmp_path)) == len(lines) + 3
        return
    with pytest.raises(UserError, match=f"folder train: its labels show {refused}.*value: 255"):
        said(["folder"], tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_nothing_can_be_scored_on_labels_that_are_all_ignored(kit, tmp_path, split):
    kit.small_folder(tmp_path / "mine", "classes: [background, crack]", (0, 1))
    for image in (tmp_path / f"mine/images/{split}").iterdir():
        kit.write_mask(tmp_path / f"mine/masks/{split}/{image.stem}.png", np.full(kit.SIZE, 255))
    with pytest.raises(UserError, match=f"folder {split}: its labels show no class at all, so there is nothing to score"):
        pack("folder", split, None, tmp_path / "mine", tmp_path / "packed")


def test_a_folder_without_val_is_told_what_a_study_needs(kit, tmp_path):
    kit.small_folder(tmp_path / "mine", "classes: [background, crack]\nsplits: {train: train}", (0, 1))
    assert said(["verify", "folder"], tmp_path)[1].startswith("folder: NO VAL, only train: a study needs train and val")


def test_a_name_alone_checks_and_packs(place):
    lines = said(["folder"], place)
    assert len(lines) == 3 and "verified" in lines[0] and "folder val: 2 images" in lines[2]
    assert said(["scenes"], place) == ["scenes: drawn when needed, no files to verify"]


def test_the_table_of_sets(place, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", str(place / "mine"))
    packed = place / "packed"
    list(command(["folder"], None, "3x4", packed))
    list(command(["prepare", "folder"], None, None, packed))
    lines = list(command([], packed_dir=packed))
    assert lines == list(command(["list"], packed_dir=packed)) and lines[0].split() == ["set", "state", "images", "packed", "disk", "licence"]
    rows = {line.split()[0]: line for line in lines[1 : lines.index("")]}
    assert list(rows) == list_datasets()
    assert f"in {place / 'mine'}, verified 20" in rows["folder"] and "  2/2  " in rows["folder"] and "3x4" in rows["folder"]
    assert "drawn when needed  " in rows["scenes"] and "367/101/233" in rows["scenes"]
    assert "not found" in rows["cityscapes"] and "non-commercial" in rows["cityscapes"]
    assert "gets, checks and packs ade20k, camvid, voc2012, voc2012_aug; of the others" in lines[lines.index("") + 1]


def test_a_damaged_set_is_said_below_the_table(place, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", str(place / "mine"))
    (place / "mine" / "masks" / "train" / "0.png").unlink()
    lines = list(command([], packed_dir=place / "packed"))
    assert any(line.startswith("folder ") and "damaged" in line for line in lines)
    assert lines[-1].startswith("folder: ") and "has no mask for" in lines[-1]


def test_wrong_words(place):
    for words, message in {
        "camvdi": "unknown data set 'camvdi': did you mean 'camvid'", "lst": "did you mean 'list'", "a b c": "unknown data command",
        "verfy camvid": "unknown data command 'verfy camvid': did you mean 'verify'", "prepare scens": "did you mean 'scenes'",
        "prepare": "segkd data prepare: give the name of a data set: ade20k",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            list(command(words.split(), packed_dir=place))


def test_sizes_in_words(place):
    assert parse_size(None) is None and parse_size("360x480") == (360, 480)
    for text in ("360", "360*480", "x", "-1x4"):
        with pytest.raises(UserError, match="--size: .*360x480"):
            parse_size(text)
    with pytest.raises(UserError, match="both positive"):
        said(["prepare", "folder"], place, "0x4")


def test_the_command_line(place, monkeypatch, capsys):
    monkeypatch.setattr(overview, "PACKED", place / "packed")
    assert main(["data", "verify", "folder", "--root", str(place / "mine")]) == 0
    assert "folder: train 2, val 2 images verified" in capsys.readouterr().out
    assert main(["data", "prepare", "folder", "--root", str(place / "mine"), "--size", "3by4"]) == 2
    assert capsys.readouterr().err.startswith("segkd: --size: '3by4'")


def test_bytes_on_the_disk(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100_000)
    (tmp_path / "gone").symlink_to("nowhere")
    assert 100_000 <= disk_bytes(tmp_path) < 120_000 and disk_bytes(tmp_path / "a" / "b") == disk_bytes(tmp_path / "a")
