"""A step of somebody's own loop: labels and teachers as they come work, or are one error that speaks of labels or batches."""

import dataclasses

import pytest
import torch

from segkd.losses import Context, create_method, list_methods, task_loss
from segkd.prediction import IGNORE, NetworkInfo
from segkd.registry import UserError

TERMS = [name for name in list_methods() if name != "lad"]


def total(step: Context, info, name: str = "hwd+ifvd+fakd_cwd+rdd") -> torch.Tensor:
    method = create_method(name)
    method.build(info.student, info.teacher)
    return sum((task_loss(step.student, step.labels, 0.4, method.task_weight(step)) | method.loss(step)).values())


@pytest.mark.parametrize(
    "form",
    [lambda y: y.byte(), lambda y: y.int(), lambda y: y.short(), lambda y: y[:, None], lambda y: y[:, None].byte()],
    ids=["uint8", "int32", "int16", "(B, 1, H, W)", "(B, 1, H, W) uint8"],
)
def test_labels_of_every_integer_type_are_the_same_labels(context, info, form):
    plain = context()
    assert (plain.labels == IGNORE).any()
    other = context(labels=form(plain.labels))
    assert other.labels.dtype == torch.int64 and torch.equal(other.labels, plain.labels)
    assert torch.equal(total(other, info), total(plain, info))
    assert torch.equal(task_loss(plain.student, form(plain.labels))["task"], task_loss(plain.student, plain.labels)["task"])


@pytest.mark.parametrize("form", [lambda y: y.byte(), lambda y: y[:, None].int()])
def test_a_label_assisted_teacher_reads_the_same_labels(form):
    labels, images = torch.randint(0, 4, (2, 9, 12)), torch.rand(2, 3, 9, 12)
    labels[0, 0] = IGNORE
    kind = create_method("lad").teacher_kind
    kind.build(NetworkInfo("teacher", 4, 4, None, (8,), True), None)
    seen = [kind.teacher_input(images, y, torch.Generator().manual_seed(0)) for y in (labels, form(labels))]
    assert seen[0].shape == (2, 4, 9, 12) and torch.equal(*seen)


@pytest.mark.parametrize(
    "form, words",
    [
        (lambda y: torch.where(y == 0, -1, y), r"labels hold -1: a label is a class, 0 to 3, or 255, .* labels\[labels == -1\] = 255"),
        (lambda y: torch.where(y == 0, -100, y), "labels hold -100"),
        (lambda y: torch.where(y == 3, 4, y), "labels hold 4: a label is a class, 0 to 3"),
        (lambda y: y.float(), "labels of type torch.float32"),
        (lambda y: y[0], r"labels of type torch.int64 and shape \(9, 12\)"),
        (lambda y: torch.nn.functional.one_hot(y.clamp_max(3)).permute(0, 3, 1, 2), r"shape \(2, 4, 9, 12\)"),
        (lambda y: y[:1], "labels of a batch of 1, but the student predicts 2 images"),
    ],
)
def test_what_is_no_label_is_said(context, form, words):
    labels = form(context().labels)
    with pytest.raises(UserError, match=words) as said:
        context(labels=labels)
    assert "\n" not in str(said.value)


def test_a_teacher_of_another_batch_or_of_other_classes_is_said(context):
    step = context()
    for logits, words in ((step.teacher.logits[:1], "1 images and 4 classes"), (step.teacher.logits[:, :3], "2 images and 3 classes")):
        with pytest.raises(UserError, match=f"the teacher predicts {words}, the student 2 images and 4 classes: give both the same"):
            dataclasses.replace(step, teacher=dataclasses.replace(step.teacher, logits=logits), checked=False)
    with pytest.raises(UserError, match="images of a batch of 3"):
        dataclasses.replace(step, images=torch.zeros(3, 3, 9, 12), checked=False)


@pytest.mark.parametrize("name", TERMS)
def test_a_teacher_under_inference_mode_gives_the_same_gradient(context, info, name):
    found = []
    for inference in (False, True):
        step = context(dtype=torch.float32)
        with torch.inference_mode(inference):
            copy = lambda t: t.detach().clone()  # noqa: E731
            maps = {key: copy(getattr(step.teacher, key)) for key in ("logits", "aux_logits", "feature")}
            teacher = dataclasses.replace(step.teacher, **maps, stages=(maps["feature"],), classifier=tuple(map(copy, step.teacher.classifier)))
        assert teacher.logits.is_inference() == inference
        step = dataclasses.replace(step, teacher=teacher, checked=False)
        torch.manual_seed(0)
        total(step, info, name).backward()
        found.append(step.student.logits.grad if step.student.logits.is_leaf else step.student.feature.grad)
    assert found[0].abs().sum() > 0 and torch.equal(*found)
