"""RDD's difficulty, confidence, masks and weighted losses against loops over both readings, paper and released code."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segkd.losses import create_method, task_loss
from segkd.losses.rdd import CITYSCAPES_WEIGHTS, confidence, difficulty_mask, hard_pixels, teacher_difficulty
from segkd.registry import UserError
from tests.losses.harness import built, divergence, log_softmax, normal, softmax


def probabilities(scores):
    return np.array(softmax(scores))


def cross_entropy(scores, label):
    return -log_softmax(scores)[label]


def up(logits, size):
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True).detach().numpy()


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_difficulty_is_its_definition(variant):
    main, aux = normal((2, 4, 3, 5), (2, 4, 3, 5), scale=2)
    value = teacher_difficulty(torch.tensor(main), torch.tensor(aux), variant).numpy()
    first, second = (main, aux) if variant == "paper" else (aux, main)
    for b, y, x in np.ndindex(2, 3, 5):
        assert value[b, y, x] == pytest.approx(math.exp(-divergence(first[b, :, y, x], second[b, :, y, x])), abs=1e-10)


def test_difficulty_stays_within_its_range():
    main, aux = map(torch.tensor, normal((1, 5, 6, 6), (1, 5, 6, 6)))
    for scale in (1e-4, 1, 400):
        value = teacher_difficulty(scale * main.float(), scale * aux.float())
        assert value.min() >= 0 and value.max() <= 1
    assert torch.equal(teacher_difficulty(main, main), torch.ones(1, 6, 6).double())


def test_confidence_is_the_largest_probability_or_that_of_the_true_class(context):
    step = context()
    logits, labels = step.student.logits, step.labels
    scores = up(logits, labels.shape[1:])
    largest, true = confidence(logits, labels).numpy(), confidence(logits, labels, "official").numpy()
    for b, y, x in np.ndindex(*labels.shape):
        p, label = probabilities(scores[b, :, y, x]), labels[b, y, x].item()
        assert largest[b, y, x] == pytest.approx(p.max(), abs=1e-10)
        assert true[b, y, x] == pytest.approx(1.0 if label == 255 else p[label], abs=1e-10)


def test_hard_pixels_keep_at_least_their_share():
    values = [0.9, 0.7, 0.2, 0.71, 0.95, 1.0]
    for kept in range(9):
        limit = max(0.7, sorted(values)[min(kept, 6) - 1] if kept else 0.0)
        assert hard_pixels(torch.tensor(values), 0.7, kept).tolist() == [v <= limit for v in values]


def test_masks_are_their_truth_tables():
    student, teacher = torch.tensor([0, 0, 1, 1]).bool(), torch.tensor([0, 1, 0, 1]).bool()
    tables = {"xor": [0, 1, 1, 0], "or": [0, 1, 1, 1], "and": [0, 0, 0, 1], "ohem": [0, 0, 1, 1]}
    for mode, table in tables.items():
        assert difficulty_mask(student, teacher, mode).int().tolist() == table


def weighted_loss(step, info, variant="paper", aux_weight=0.4, **hyper):
    weight = built(info, "rdd", variant, **hyper)[0].task_weight(step)
    assert not weight.main.requires_grad and not (step.step and weight.main[step.labels == 255].any())
    return weight, task_loss(step.student, step.labels, aux_weight, weight)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_first_stage_weights_both_heads_with_one_map(variant, context, info):
    step = context(step=0)
    weight, losses = weighted_loss(step, info, variant)
    easy = up(teacher_difficulty(step.teacher.logits, step.teacher.aux_logits, variant)[:, None], (9, 12))[:, 0]
    for name, logits, share in [("task", step.student.logits, 1), ("task_aux", step.student.aux_logits, 0.4)]:
        scores, total = up(logits, (9, 12)), 0.0
        for b, y, x in np.ndindex(2, 9, 12):
            label = step.labels[b, y, x].item()
            if label != 255:
                total += easy[b, y, x] * cross_entropy(scores[b, :, y, x], label)
        assert losses[name].item() == pytest.approx(share * total / (2 * 9 * 12), abs=1e-8)
    assert weight.normaliser == "pixels"


@pytest.mark.parametrize("mode", ["xor", "or", "and", "ohem"])
def test_second_stage_of_the_paper(mode, context, info):
    step = context(step=5)
    _, losses = weighted_loss(step, info, mode=mode, threshold=0.6)
    heads = {"task": step.student.logits, "task_aux": step.student.aux_logits}
    scores = {name: up(logits, (9, 12)) for name, logits in heads.items()}
    teacher, totals = up(step.teacher.logits, (9, 12)), dict.fromkeys(heads, 0.0)
    for b, y, x in np.ndindex(2, 9, 12):
        s, t = (probabilities(z[b, :, y, x]).max() <= 0.6 for z in (scores["task"], teacher))
        chosen = {"xor": s != t, "or": s or t, "and": s and t, "ohem": s}[mode]
        label = step.labels[b, y, x].item()
        for name in heads:
            if chosen and label != 255:
                totals[name] += cross_entropy(scores[name][b, :, y, x], label)
    assert losses["task"].item() == pytest.approx(totals["task"] / 216, abs=1e-8) and totals["task"] > 0
    assert losses["task_aux"].item() == pytest.approx(0.4 * totals["task_aux"] / 216, abs=1e-8)


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_second_stage_of_the_released_code(kept, context, info):
    step = context(step=5)
    _, losses = weighted_loss(step, info, "official", min_kept=kept, threshold=0.3)
    pairs = [("task", "logits", 1.0), ("task_aux", "aux_logits", 0.4)]
    for name, head, share in pairs:
        z = [up(getattr(net, head), (9, 12)) for net in (step.student, step.teacher)]
        sure = np.ones((2, 2, 9, 12))
        for i, b, y, x in np.ndindex(*sure.shape):
            if (label := step.labels[b, y, x].item()) != 255:
                sure[i, b, y, x] = probabilities(z[i][b, :, y, x])[label]
        limits = [max(0.3, sorted(q.ravel())[round(kept * 216) - 1] if kept else 0.0) for q in sure]
        top = bottom = 0.0
        for b, y, x in np.ndindex(2, 9, 12):
            student, teacher = (sure[i, b, y, x] <= limits[i] + 1e-12 for i in range(2))
            if step.labels[b, y, x] != 255 and student != teacher:
                top, bottom = top - math.log(sure[0, b, y, x]), bottom + 1
        assert losses[name].item() == pytest.approx(share * top / bottom if bottom else 0.0, abs=1e-8)


def test_the_codes_class_weights_hold_for_nineteen_classes_only(info):
    rdd = create_method("rdd", "official").weighting
    labels = torch.tensor([[[0, 18, 255]]])
    assert rdd._class_weights(19, labels)[0, 0, :2].tolist() == pytest.approx([0.8373, 1.0507])
    assert rdd._class_weights(11, labels).tolist() == [[[1, 1, 1]]]
    assert len(CITYSCAPES_WEIGHTS) == 19 and create_method("rdd").weighting._class_weights(19, labels).sum() == 3


def test_stages_follow_the_step_and_can_be_pinned(context, info):
    def stage(step, **hyper):
        main = built(info, "rdd", **hyper)[0].task_weight(context(step=step, total=40)).main
        return "tse" if set(main.unique().tolist()) <= {0.0, 1.0} else "tfe"

    assert [stage(t) for t in (0, 3, 4, 39)] == ["tfe", "tfe", "tse", "tse"]
    assert stage(0, warmup=0.0) == "tse" and stage(39, warmup=1.0) == "tfe"
    assert stage(39, stage="tfe") == "tfe" and stage(0, stage="tse") == "tse"


def test_heads_that_are_missing(context, info):
    poor = replace(info.teacher, has_aux=False)
    for variant in ("paper", "official"):
        method = create_method("rdd", variant)
        method.build(replace(info.student, has_aux=False), info.teacher)
        assert all(method.task_weight(context(step=step, student_aux=False)).aux is None for step in (0, 5))
    for hyper in ({}, {"variant": "official", "stage": "tse"}):
        with pytest.raises(UserError, match="teacher.*student.*auxiliary"):
            create_method("rdd", **hyper).build(info.student, poor)
    create_method("rdd", stage="tse").build(info.student, poor)


def test_the_scripts_for_other_methods_multiply_two_means(info, context):
    step = context(step=0)
    loss, plain = weighted_loss(step, info, tfe_map="mean")[1], task_loss(step.student, step.labels)
    easy = weighted_loss(step, info)[0].main.mean()
    for head in ("task", "task_aux"):
        assert loss[head].item() == pytest.approx((plain[head] * easy).item(), rel=1e-9)


def test_auxiliary_scores_on_a_coarser_grid_are_brought_to_the_main_ones():
    main, aux = map(torch.tensor, normal((2, 4, 6, 8), (2, 4, 3, 4)))
    assert torch.allclose(teacher_difficulty(main, aux), teacher_difficulty(main, torch.tensor(up(aux, (6, 8)))), atol=1e-12)
