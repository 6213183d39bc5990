"""The ground floor: predictions, registry, config, metrics."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, from_dict, to_dict
from segkd.metrics import confusion_matrix, scores
from segkd.prediction import Prediction, labels_to_grid, resize_scores
from segkd.registry import Registry, UserError


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_confusion_equals_a_slow_count(classes, height, width, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes + 1, (height, width))
    labels[labels == classes] = 255
    guess = rng.integers(0, classes, (height, width))
    slow = np.zeros((classes, classes), dtype=int)
    for t, p in zip(labels.ravel(), guess.ravel()):
        if t != 255:
            slow[t, p] += 1
    fast = confusion_matrix(torch.from_numpy(guess), torch.from_numpy(labels), classes)
    assert fast.dtype == torch.int64 and (fast.numpy() == slow).all()


def test_scores_by_hand():
    # two classes present, one absent everywhere: IoU 3/5, 4/6; the third has no union and stays out of the mean
    counts = torch.tensor([[3, 1, 0], [1, 4, 0], [0, 0, 0]])
    found = scores(counts)
    assert found["iou"][:2] == pytest.approx([3 / 5, 4 / 6]) and found["iou"][2] is None
    assert found["miou"] == pytest.approx((3 / 5 + 4 / 6) / 2)
    assert found["macc"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert found["pixel_accuracy"] == pytest.approx(7 / 9)


def test_class_predicted_but_never_labelled_counts_as_zero():
    assert scores(torch.tensor([[2, 1], [0, 0]]))["iou"] == pytest.approx([2 / 3, 0.0])


def test_label_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="label 7 outside"):
        confusion_matrix(torch.zeros(1, 1), torch.full((1, 1), 7), 3)
    with pytest.raises(ValueError, match="label 300 outside"):  # beyond the ignored label too
        confusion_matrix(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[1, 300]]), 3)
    with pytest.raises(ValueError, match="label -2 outside"):
        confusion_matrix(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[1, -2]]), 3)


def test_labels_reach_the_grid_by_floor_nearest():
    labels = torch.arange(36).reshape(1, 6, 6)
    assert labels_to_grid(labels, (2, 3)).tolist() == [[[0, 2, 4], [18, 20, 22]]]
    assert labels_to_grid(labels, (6, 6)) is labels


def test_scores_are_resized_with_aligned_corners():
    line = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert resize_scores(line, (1, 3)).flatten().tolist() == pytest.approx([0, 0.5, 1])
    assert resize_scores(line, (1, 4), align_corners=False).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])


@given(*(st.integers(1, 9) for _ in range(4)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_resizing_equals_interpolate(h, w, height, width, align):
    scores = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    plain = torch.nn.functional.interpolate(scores, size=(height, width), mode="bilinear", align_corners=align)
    ours = resize_scores(scores, (height, width), align)
    assert torch.allclose(ours, plain, atol=1e-12)
    pull = torch.randn_like(plain)
    pair = [torch.autograd.grad(y, scores, pull)[0] for y in (ours + 0 * scores.sum(), plain + 0 * scores.sum())]
    assert torch.allclose(*pair, atol=1e-12)


def test_prediction_split_and_detach():
    logits = torch.randn(4, 3, 2, 2, requires_grad=True)
    whole = Prediction(logits, None, logits * 2, (logits,), (torch.ones(3, 1), torch.zeros(3)), logits[:, :1])
    first, second = whole.split(2)
    assert torch.equal(torch.cat([first.feature, second.feature]), whole.feature) and second.aux_logits is None
    assert second.stages[0].shape[0] == 2 and torch.equal(torch.cat([first.detail_logits, second.detail_logits]), logits[:, :1])
    cut = whole.detach()
    assert not cut.detail_logits.requires_grad and torch.equal(cut.detail_logits, logits[:, :1])
    assert whole.reorder_classes(torch.tensor([1, 2, 0])).detail_logits is whole.detail_logits
    assert not cut.logits.requires_grad and not cut.stages[0].requires_grad and whole.logits.requires_grad


def test_unknown_names_are_answered_with_the_nearest():
    table = Registry("method")
    table.register("hwd")(object())
    with pytest.raises(UserError, match="unknown method 'hwdd': did you mean 'hwd'"):
        table.get("hwdd")
    with pytest.raises(ValueError, match="twice"):
        table.register("hwd")(object())


def _config() -> RunConfig:
    teacher = RunConfig(network=NetworkConfig("deeplabv3/resnet101"))
    return RunConfig(DataConfig(crop=(64, 64)), method="kd+rdd", hyper={"rdd": {"mode": "or"}}, teacher=teacher)


def test_config_survives_json():
    config = _config()
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_run_id_is_stable_and_covers_every_value():
    config = _config()
    assert config.id == "scenes-deeplabv3_resnet18-kd.rdd-s0-" + config.id[-8:]
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, hyper={"rdd": {"mode": "and"}}),
        dataclasses.replace(config, teacher=None),
        dataclasses.replace(config, schedule=Schedule(lr=0.021)),
        dataclasses.replace(config, data=DataConfig(size=(96, 130), crop=(64, 64))),
    ]
    assert len({c.id for c in [config, *others]}) == 6
    assert RunConfig().id == "scenes-deeplabv3_resnet18-baseline-s0-64333293"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"sed": 1}, "'sed': did you mean 'seed'"),
        ({"data": {"nmae": "x"}}, "config.data: 'nmae': did you mean 'name'"),
        ({"seed": "one"}, "config.seed: expected int >= 0 and < 2..63, got 'one'"),
        ({"seed": True}, "config.seed: expected int"),
        ({"teacher": {"schedule": {"lr": "fast"}}}, "config.teacher.schedule.lr: expected float"),
        ({"data": 3}, "config.data: expected a mapping"),
    ],
)
def test_config_mistakes_name_the_key(values, words):
    with pytest.raises(UserError, match=words):
        from_dict(values)
