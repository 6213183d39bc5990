"""Images without labels beside a batch: the terms alone see them, in value and gradient; resumed exactly; refused where labels are needed."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from segkd.config import DataConfig, RunConfig
from segkd.data import create_dataset
from segkd.data.readers.folder import content
from segkd.data.scenes import split_scene
from segkd.registry import UserError
from segkd.runs import as_teacher, cohort_key, find, run, run_cohort, split_of
from segkd.study.lab.own_data import write_example
from segkd.train import loop
from segkd.train.loop import training_batch
from segkd.train.trainee import Trainee, build_network
from tests.train import harness
from tests.train.harness import CPU, NETWORK, Stop, stop_at, weights

SCHEDULE = dataclasses.replace(harness.SCHEDULE, steps=4, validations=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images with masks to train on, and five in images/unlabelled."""
    place = write_example(tmp_path_factory.mktemp("mine"), {"train": 6, "val": 2, "test": 2})
    (place / "images" / "unlabelled").mkdir()
    for index in range(5):
        Image.fromarray(split_scene("train", 100 + index, (120, 160))[0]).save(place / "images" / "unlabelled" / f"{index}.png")
    return place


@pytest.fixture
def config(folder):
    """``config(method, **changes)``: a student with three images without labels beside the two of a batch."""
    data = DataConfig("folder", (48, 64), scale=(1.0, 1.5), root=str(folder), content=content(folder))
    teacher = RunConfig(data, dataclasses.replace(NETWORK, width=0.1875), SCHEDULE)
    return lambda method, **changes: dataclasses.replace(
        RunConfig(data, NETWORK, SCHEDULE, method, teacher=teacher, unlabelled=3), **changes
    )


def test_a_folder_has_them_as_a_split_whose_labels_are_all_ignored(folder, config):
    found = create_dataset("folder", folder, "unlabelled")
    assert found.names == ["0", "1", "2", "3", "4"] and (found[3].label == 255).all() and found[3].label.shape == (120, 160)
    packed = split_of(config("cwd"), "unlabelled")
    assert len(packed) == 5 and (np.asarray(packed.labels) == 255).all()


def test_images_with_labels_are_the_same_and_every_rank_gets_its_shard(config):
    ours, (train, beside) = config("cwd"), (split_of(config("cwd"), split) for split in ("train", "unlabelled"))
    images, labels = training_batch(train, ours, 3, unlabelled=beside)
    plain = training_batch(train, dataclasses.replace(ours, unlabelled=0), 3)
    assert torch.equal(images[:2], plain[0]) and torch.equal(labels[:2], plain[1])
    assert len(images) == 5 and (labels[2:] == 255).all() and not torch.equal(images[2], images[3])
    for world in (2, 3, 5):
        parts = [training_batch(train, ours, 3, CPU, rank, world, beside) for rank in range(world)]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


@pytest.mark.parametrize("method", ["cwd", "kd"])
def test_value_and_gradient_of_a_step_by_plain_formulas(config, method):
    """Cross-entropy over labelled pixels alone, the term over all five images, in float64."""
    ours = config(method, schedule=dataclasses.replace(SCHEDULE, precision="float64"))
    classes = split_of(ours, "train").num_classes
    images, labels = training_batch(split_of(ours, "train"), ours, 0, unlabelled=split_of(ours, "unlabelled"))
    images = images.double()
    teacher = as_teacher(build_network(ours.teacher, classes).eval(), [ours])
    trainee = Trainee(ours, classes, teacher.model.info, CPU)
    other, target = build_network(ours, classes), teacher(images, labels, 0).logits
    for module in (*trainee.model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # both would draw

    seen = other.train()(images)
    at_labels = [F.interpolate(x[:2], labels.shape[1:], mode="bilinear", align_corners=True) for x in (seen.logits, seen.aux_logits)]
    task, aux = (F.nll_loss(x.log_softmax(1), labels[:2], ignore_index=255) for x in at_labels)
    if method == "kd":
        gap = (target.softmax(1) * (target.log_softmax(1) - seen.logits.log_softmax(1))).sum() / target[:, 0].numel()
    else:
        s, t = ((x.flatten(2) / 4).log_softmax(2) for x in (seen.logits, target))
        gap = 3 * 16 * (t.exp() * (t - s)).sum() / (5 * classes)
    (task + 0.4 * aux + gap).backward()

    row = trainee.train_step(images, labels, teacher(images, labels, 0))
    assert row["task"] == pytest.approx(task.item(), rel=1e-12) and row["task_aux"] == pytest.approx(0.4 * aux.item(), rel=1e-12)
    assert row[method] == pytest.approx(gap.item(), rel=1e-9)
    for (name, one), two in zip(trainee.model.named_parameters(), other.parameters()):
        assert torch.allclose(one.grad, two.grad, rtol=1e-8, atol=1e-12), name


def test_resumed_exactly_and_alone_as_in_a_cohort(config, monkeypatch, tmp_path):
    pair = [config("dist"), config("mgd+maskd")]
    straight = [weights(r) for r in run_cohort(pair, "cpu")]
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step
    run(pair[0].teacher, "cpu")
    for one, expected in zip(pair, straight):
        with pytest.raises(Stop):
            run(one, "cpu", stop_at(3))
        assert not find(one).done and weights(run(one, "cpu")) == expected
    plain = dataclasses.replace(pair[0], unlabelled=0)
    assert weights(run(plain, "cpu")) != straight[0] and plain.id != pair[0].id and cohort_key(plain) != cohort_key(pair[0])


@pytest.mark.parametrize(
    "method, changes, words",
    [
        ("baseline", {"teacher": None}, "method 'baseline' has no term"),
        *((method, {}, f"{method} of method '{method}' needs labels") for method in ("hwd", "cirkd", "ifvd", "fakd_cwd", "fakd_pd")),
        ("kd+rdd", {}, "rdd of method 'kd\\+rdd' needs labels"),
        ("lad+cwd", {}, "lad of method 'lad\\+cwd' needs labels"),
        ("cwd", {"data": DataConfig("scenes", (48, 64))}, "data set 'scenes' has no split of images without labels"),
    ],
)
def test_what_needs_labels_is_refused_before_anything_is_written(config, method, changes, words, runs):
    with pytest.raises(UserError, match=words):
        run(config(method, **changes), "cpu")
    assert not runs.exists()
