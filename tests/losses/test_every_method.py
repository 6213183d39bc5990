"""What holds for every method: tested by being in the folder, in both variants where there is released code."""

import copy
import dataclasses
import importlib
import inspect
import json

import pytest
import torch

from segkd.losses import (
    METHODS,
    ROW_HYPER,
    ROWS,
    TaskWeighting,
    TeacherKind,
    Term,
    TrainingData,
    create_method,
    list_methods,
    task_loss,
)
from segkd.prediction import IGNORE, Prediction
from segkd.registry import UserError
from tests.losses.harness import total_loss

CASES = [
    (name, variant)
    for name in list_methods()
    for variant in ("paper", "official")
    if variant == "paper" or METHODS.get(name).official is not None
]
TERMS, WEIGHTINGS, KINDS = ([c for c in CASES if issubclass(METHODS.get(c[0]), kind)] for kind in (Term, TaskWeighting, TeacherKind))
LOSSES = pytest.mark.parametrize("name, variant", TERMS + WEIGHTINGS)
SITUATIONS = {
    "plain": {},
    "one image": {"batch": 1},
    "confident": {"scale": 400.0},
    "all ignored": {"labels": torch.full((2, 9, 12), IGNORE)},
    "one class": {"labels": torch.full((2, 9, 12), 2)},
    "bfloat16": {"dtype": torch.bfloat16},
    "first step": {"step": 0},
    "last step": {"step": 9},
    "no auxiliary head": {"student_aux": False},
}


def made(name, variant, info, dtype=torch.float32):
    torch.manual_seed(0)  # adapters start alike
    method = create_method(name, variant)
    return method, method.build(info.student, info.teacher).to(dtype)


def leaves(network):
    return [network.feature, *network.classifier] + ([network.aux_logits] if network.aux_logits is not None else [])


@pytest.mark.parametrize("situation", SITUATIONS)
@LOSSES
def test_finite_with_gradient_for_the_student_alone(name, variant, situation, info, context):
    method, _ = made(name, variant, info)
    step = context(**{"dtype": torch.float32, **SITUATIONS[situation]})
    total, parts = total_loss(method, step)
    assert total.dtype == torch.float32 and all(torch.isfinite(value) for value in parts.values())
    total.backward()
    assert all(leaf.grad is None for leaf in leaves(step.teacher)), "the teacher got a gradient"
    reached = [leaf.grad for leaf in leaves(step.student) if leaf.grad is not None]
    assert reached and all(torch.isfinite(grad).all() for grad in reached)
    if situation == "plain":
        assert sum(grad.abs().sum() for grad in reached) > 0


@pytest.mark.parametrize("name, variant", TERMS)
def test_terms_are_named_after_their_part_and_scale_with_its_weight(name, variant, info, context):
    method, _ = made(name, variant, info, torch.float64)
    losses = method.loss(context())
    assert losses and all(key == name or key.startswith(f"{name}/") for key in losses)
    if "weight" in method.hyper()[name]:
        torch.manual_seed(0)
        double = create_method(name, variant, weight=2 * method.hyper()[name]["weight"])
        double.build(info.student, info.teacher).to(torch.float64)
        assert double.loss(context())[name].item() == pytest.approx(2 * losses[name].item())


@pytest.mark.parametrize("name, variant", WEIGHTINGS)
@pytest.mark.parametrize("step", [0, 5])
def test_weightings_are_maps_at_label_size(name, variant, step, info, context):
    method, _ = made(name, variant, info)
    weight = method.task_weight(context(torch.float32, step=step))
    assert weight.main.shape == weight.aux.shape == (2, 9, 12) and weight.normaliser in ("pixels", "selected")
    assert weight.main.min() >= 0 and not weight.main.requires_grad and not weight.aux.requires_grad


@LOSSES
def test_a_run_goes_on_from_its_saved_state(name, variant, info, context):
    method, modules = made(name, variant, info, torch.float64)
    first, second = context(step=3), context(step=4, seed=5)
    method.prepare(lambda images, labels, step: first.teacher, TrainingData(20, lambda step: (first.images, first.labels)))
    total_loss(method, first)
    method.learn(first)
    method.after_step(first)
    torch.manual_seed(1)  # whatever the fresh modules start from, the saved state decides
    other = create_method(name, variant)
    restored = other.build(info.student, info.teacher).to(torch.float64)
    restored.load_state_dict(copy.deepcopy(modules.state_dict()))
    after = []
    for one in (method, other):
        step = dataclasses.replace(second, generator=torch.Generator().manual_seed(7))
        after.append([total_loss(one, step)[0], one.learn(step), one.after_step(step)][0])
    assert torch.equal(*after)
    for (key, ours), theirs in zip(modules.state_dict().items(), restored.state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=f"{key} differs after the step")


@pytest.mark.parametrize("step", [0, 5])
@LOSSES
def test_autocast_changes_no_bit_and_nor_does_another_time(name, variant, step, info, context):
    values = []
    for enabled in (False, True):
        made_step = context(torch.float32, step=step)
        made_step.teacher.logits = made_step.teacher.logits[..., :2, :3]  # a coarser grid, so resizing is inside
        made_step.teacher.aux_logits = made_step.teacher.aux_logits[..., :2, :3]
        method, _ = made(name, variant, info)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(total_loss(method, made_step)[0])
    assert torch.equal(*values)


LACKS = {
    "feature": ({"feature_channels": None}, {"feature": None, "classifier": None}),
    "auxiliary head": ({"has_aux": False}, {"aux_logits": None}),
    "stages": ({"stage_channels": ()}, {"stages": ()}),
}


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("lacking", LACKS)
@LOSSES
def test_what_a_network_lacks_is_said_before_the_first_step_or_done_without(name, variant, lacking, role, info, context):
    facts, tensors = LACKS[lacking]
    setattr(info, role, dataclasses.replace(getattr(info, role), **facts))
    try:
        method, _ = made(name, variant, info)
    except UserError as error:
        assert "'student'" in str(error) and "'teacher'" in str(error), "both networks are named"
        return
    step = context(torch.float32)
    setattr(step, role, dataclasses.replace(getattr(step, role), **tensors))
    total, _ = total_loss(method, step)
    assert torch.isfinite(total)


@pytest.mark.parametrize("key", ROWS, ids="/".join)
def test_every_row_of_the_papers_has_a_loss(key, info, context):
    torch.manual_seed(0)
    method = create_method(ROWS[key], **ROW_HYPER.get(key, {}))
    method.build(info.student, info.teacher)
    step = context(torch.float32)
    total = sum({**task_loss(step.student, step.labels, weight=method.task_weight(step)), **method.loss(step)}.values())
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(step.student.feature.grad).all()


@pytest.mark.parametrize("name, variant", KINDS)
def test_teacher_kinds_feed_and_train(name, variant, info, context):
    method, _ = made(name, variant, info)
    kind, step = method.teacher_kind, context(torch.float32)
    assert kind.teacher_input(step.images, step.labels, step.generator).shape == (2, 3 + kind.extra_channels, 9, 12)
    batch = kind.training_input(step.images, step.labels, step.generator)
    logits = (batch[:, :1] + torch.randn(len(batch), 4, 9, 12)).requires_grad_()
    losses = kind.teacher_loss(Prediction(logits), step.labels)
    sum(losses.values()).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name, variant", CASES)
def test_hyper_parameters_are_recorded_and_every_one_has_its_source(name, variant, info):
    method, _ = made(name, variant, info)
    assert json.loads(json.dumps(method.hyper())) == method.hyper()
    cls = METHODS.get(name)
    for line in inspect.getsource(cls.Hyper).splitlines():
        field = line.split(":")[0].strip()
        if field in cls.Hyper.__dataclass_fields__ and "=" in line and line.startswith("    ") and line[4] != " ":
            assert "  # " in line, f"{cls.Hyper.__name__}.{field} names no source"


@pytest.mark.parametrize("name", list_methods())
def test_a_method_is_one_documented_file(name):
    cls = METHODS.get(name)
    module = importlib.import_module(cls.__module__)
    assert cls.__module__.startswith("segkd.losses.") and module.__doc__ and cls.__doc__ and cls.Hyper.__doc__
    assert cls.Hyper.__dataclass_params__.frozen


@LOSSES
def test_the_teacher_needs_no_auxiliary_head_unless_the_method_says_so(name, variant, info, context):
    found = []
    for scores in ({}, {"aux_logits": None}):
        step = context(torch.float32, step=0)
        step.teacher = dataclasses.replace(step.teacher, **scores)
        try:
            found.append(total_loss(made(name, variant, info)[0], step)[0])
        except AttributeError:  # it reads what is not there
            found.append(torch.tensor(torch.nan))
    assert torch.equal(*found) != METHODS.get(name).needs_teacher_aux


@pytest.mark.parametrize("name, variant", TERMS)
def test_labels_change_nothing_where_the_method_says_so(name, variant, info, context):
    """A term that does not say so is refused for images without labels; one that does must not look at them."""
    method, _ = made(name, variant, info, torch.float64)
    ignored = context(labels=torch.full((2, 9, 12), IGNORE))
    ours, theirs = (sum(made(name, variant, info, torch.float64)[0].loss(step).values()) for step in (context(), ignored))
    assert torch.equal(ours, theirs) == method.parts[name].label_free


def test_cirkd_without_its_memory_needs_no_labels(info, context):
    method = create_method("cirkd", pixel_weight=0.0, region_weight=0.0)
    method.build(info.student, info.teacher)
    ours, theirs = (sum(method.loss(step).values()) for step in (context(), context(labels=torch.full((2, 9, 12), IGNORE))))
    assert method.parts["cirkd"].label_free and torch.equal(ours, theirs)
