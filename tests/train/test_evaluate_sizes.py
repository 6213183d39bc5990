"""Evaluation of images with sizes of their own: each alone, exactly; one size: as before, in batches."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segkd import runs
from segkd.config import DataConfig, RunConfig, Schedule, from_dict, to_dict
from segkd.data.store import pack
from segkd.losses.method import create_method
from segkd.metrics import confusion_matrix
from segkd.prediction import resize_scores
from segkd.registry import UserError
from segkd.train.evaluate import batches, evaluate
from segkd.train.runtime import generator
from segkd.train.trainee import build_network

SIZES = [(40, 56), (33, 47), (64, 48), (40, 56), (35, 35)]


@pytest.fixture
def folder(tmp_path):
    """A CamVid folder whose images have sizes of their own."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for part in (split, f"{split}annot"):
            (tmp_path / "CamVid" / part).mkdir(parents=True)
        for index, size in enumerate(SIZES):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "CamVid" / split / f"{index}.png")
            label = rng.integers(0, 12, size, dtype=np.uint8)
            Image.fromarray(label).save(tmp_path / "CamVid" / f"{split}annot" / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("extra", [0, 1])
def test_each_image_is_scored_alone_at_its_own_size(folder, extra):
    packed = pack("camvid", "test", None, folder, folder / "packed")
    network = RunConfig(network=dataclasses.replace(RunConfig().network, name="pspnet/resnet18", width=0.125, extra_channels=extra))
    model = build_network(network, 11).eval()
    kind = teacher_kind(model) if extra else None
    want = torch.zeros(11, 11, dtype=torch.int64)
    for row, size in enumerate(SIZES):
        images, labels, _ = packed.take([row])
        assert labels.shape[1:] == size
        seen = images.permute(0, 3, 1, 2).float() / 255
        if kind is not None:
            seen = kind.teacher_input(seen, labels.long(), generator(7, "evaluate", row))
        with torch.no_grad():
            guess = resize_scores(model(seen).logits, size, model.align_corners).argmax(1)
        want += confusion_matrix(guess, labels.long(), 11)
    assert torch.equal(evaluate(model, packed, kind, seed=7), want)
    assert want.sum() == sum(int((packed.take([row])[1] != 255).sum()) for row in range(5))


def teacher_kind(model):
    method = create_method("lad")
    method.build(model.info, None)
    return method.teacher_kind


def test_batches_of_one_size_are_whole_and_in_order(folder):
    packed = pack("camvid", "test", (20, 24), folder, folder / "packed")
    parts = list(batches(packed, 2))
    assert [(start, len(images)) for start, images, _ in parts] == [(0, 2), (2, 2), (4, 1)]
    np.testing.assert_array_equal(torch.cat([labels for *_, labels in parts]), packed.labels)


def test_own_sizes_need_a_crop_to_train_on(folder, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", str(folder))
    monkeypatch.setattr(runs, "ROOT", folder)
    config = RunConfig(DataConfig("camvid", size=None, crop=(32, 32)))
    assert runs.split_of(config, "train").size is None
    with pytest.raises(UserError, match="images of camvid have sizes of their own: give data.crop, or data.size"):
        runs.split_of(RunConfig(DataConfig("camvid", size=None)), "train")
    assert runs.split_of(RunConfig(DataConfig("camvid", size=None)), "test").size is None


def test_an_image_too_small_is_named_before_the_first_step(folder, monkeypatch):
    """Of test, of a student, whose teacher would be trained first: it names the image, and no run is begun."""
    monkeypatch.setenv("SEGKD_DATA", str(folder))
    monkeypatch.setattr(runs, "ROOT", folder)
    small = dataclasses.replace(RunConfig().network, name="pspnet/resnet18", width=0.125)
    data, schedule = DataConfig("camvid", size=None, crop=(32, 32)), Schedule(steps=1, batch_size=2, validations=1)
    for part in ("", "annot"):
        shutil.copytree(folder / "CamVid" / f"test{part}", folder / "CamVid" / f"val{part}")
        for place in (f"test{part}/4.png", f"val{part}/2.png"):
            path = folder / "CamVid" / place
            Image.open(path).crop((0, 0, 31, 40)).save(path)
    teacher = RunConfig(data, small, schedule)
    with pytest.raises(UserError, match=r"image '(4' of camvid test|2' of camvid val) is 40x31, and .* takes sides of 32 or more"):
        runs.run(dataclasses.replace(teacher, method="cwd", teacher=teacher), "cpu")
    with pytest.raises(UserError, match="data.crop is 16x32, and .* takes sides of 32 or more"):
        runs.run(dataclasses.replace(teacher, data=dataclasses.replace(data, crop=(16, 32))), "cpu")
    with pytest.raises(UserError, match="data.size is 31x64, and .* takes sides of 32 or more"):
        runs.run(dataclasses.replace(teacher, data=DataConfig("scenes", size=(31, 64))), "cpu")
    assert not (folder / "runs").exists()


def test_a_config_without_a_size_survives_json_and_has_its_own_id():
    config = RunConfig(DataConfig("camvid", size=None, crop=(32, 32)))
    assert from_dict(to_dict(config)) == config and config.id != RunConfig(DataConfig("camvid", crop=(32, 32))).id
