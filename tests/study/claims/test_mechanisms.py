"""Mechanisms: measured on networks that were really trained (a few steps), against loops over single images and pixels."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from segkd.analysis.boundary import boundary_band
from segkd.data.augment import to_batch
from segkd.losses.rdd import teacher_difficulty
from segkd.metrics import confusion_matrix, scores
from segkd.prediction import IGNORE, labels_to_grid, resize_scores
from segkd.registry import UserError
from segkd.runs import find, run_cohort
from segkd.study.claims import measures
from segkd.study.claims import mechanisms as m
from segkd.study.claims.parts import config_of
from segkd.study.claims.tests import clean_teacher, cwd, hwd, label_teacher, rdd, teacher
from segkd.study.numbers.frozen import altered, thaw
from segkd.study.numbers.study import open_study
from segkd.study.report.freeze import freeze_measures


@pytest.fixture(scope="module")
def trained(shared_runs):
    """Finished smoke runs by name."""
    study = open_study("all", "smoke")
    cells = {"cwd": cwd, "hwd": hwd, "rdd": rdd, "teacher": teacher, "label_teacher": label_teacher, "clean": clean_teacher}
    configs = {name: config_of(study, cell, 0) for name, cell in cells.items()}
    run_cohort([configs[name] for name in ("cwd", "hwd", "rdd")])
    for name in ("label_teacher", "clean"):
        run_cohort([configs[name]])
    return {name: find(config) for name, config in configs.items()}


def images_of(run):
    """(labels (1, H, W), prediction, the teacher's logits) of each test image by itself."""
    packed, model = m.seen(run), run.load_model()
    teacher_model = find(run.config.teacher).load_model() if run.config.teacher else model
    for i in range(len(packed)):
        images, labels = to_batch(*packed.take([i])[:2])
        with torch.no_grad():
            yield labels, model(images), teacher_model(images).logits


def test_miou_near_boundaries(trained):
    total = 0
    for labels, prediction, _ in images_of(trained["rdd"]):
        guess = resize_scores(prediction.logits, labels.shape[-2:]).argmax(1)
        near = boundary_band(labels, 2)
        total = total + confusion_matrix(guess[near], labels[near], 11)
    assert m.boundary_miou(trained["rdd"]) == pytest.approx(scores(total)["miou"], abs=1e-4)


def test_a_clean_label_gives_one_answer_and_a_noised_one_several(trained):
    assert m.pairwise_kl(trained["clean"]) == pytest.approx(0, abs=1e-9)
    assert m.pairwise_kl(trained["label_teacher"]) > 0


def test_input_scores_are_differences_of_miou(trained, monkeypatch):
    assert all(math.isfinite(v) for v in m.input_scores(trained["label_teacher"]).values())
    expected = pytest.approx({"drop_image": 0.2, "drop_label": 0.7, "kept_by_label": 0.75})
    made = pd.DataFrame({"input": ["image and label", "label only", "image only"], "miou": [0.8, 0.6, 0.1]})
    monkeypatch.setattr(m, "input_ablation", lambda *a, **k: made)
    m._known.clear()
    kept = trained["label_teacher"].path / m.MEASURED
    assert m.input_scores(trained["label_teacher"]) != expected  # is kept beside the run
    kept.write_text(kept.read_text().replace('"of": "', '"of": "of another package '))
    m._known.clear()
    assert m.input_scores(trained["label_teacher"]) == expected
    kept.unlink()
    m._known.clear()


def test_smallest_divergence_ratio_by_pixels(trained):
    """TD and NTD from the definition, one class and one pixel after the other."""
    on, off = [[] for _ in range(11)], [[] for _ in range(11)]
    for labels, student, taught in images_of(trained["cwd"]):
        small = labels_to_grid(labels, student.logits.shape[-2:]).flatten().numpy()
        for c in range(11):
            maps = [torch.softmax(z[0, c].flatten().double() / 4, 0).numpy() for z in (student.logits, taught)]
            square = (maps[0] - maps[1]) ** 2
            on[c] += list(square[small == c])
            off[c] += list(square[(small != c) & (small != IGNORE)])
    ratios = [np.mean(a) / np.mean(b) for a, b in zip(on, off) if a]
    assert m.divergence_ratio(trained["cwd"]) == pytest.approx(min(ratios), rel=1e-4)


def test_difficulty_gaps_by_pixels(trained):
    right, wrong, inside, near = [], [], [], []
    for labels, prediction, _ in images_of(trained["teacher"]):
        size, known = labels.shape[-2:], labels != IGNORE
        trust = resize_scores(teacher_difficulty(prediction.logits, prediction.aux_logits)[:, None], size)[:, 0]
        hit, edge = resize_scores(prediction.logits, size).argmax(1) == labels, boundary_band(labels, 2)
        for values, mask in ((right, hit & known), (wrong, ~hit & known), (inside, ~edge & known), (near, edge)):
            values += trust[mask].tolist()
    found = m.difficulty_gaps(trained["teacher"])
    assert found["right"] == pytest.approx(np.mean(right) - np.mean(wrong), abs=1e-4)
    assert found["inside"] == pytest.approx(np.mean(inside) - np.mean(near), abs=1e-4)


def test_xor_balance_by_pixels(trained):
    only_student = only_teacher = 0
    for labels, student, taught in images_of(trained["rdd"]):
        sure = [resize_scores(z, labels.shape[-2:]).softmax(1).amax(1) > 0.7 for z in (student.logits, taught)]
        known = labels != IGNORE
        only_student += int((~sure[0] & sure[1] & known).sum())
        only_teacher += int((sure[0] & ~sure[1] & known).sum())
    picked = only_student + only_teacher
    expected = (only_student - only_teacher) / picked if picked else math.nan
    assert m.xor_balance(trained["rdd"]) == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_activation_ratio_by_pixels(trained):
    run = trained["cwd"]
    counts = np.bincount(m.seen(run).labels.ravel(), minlength=256)[:11]
    rare = [c for c in sorted(range(11), key=lambda c: counts[c]) if counts[c]][: (counts > 0).sum() // 2]
    inside, outside = [], []
    for labels, prediction, _ in images_of(run):
        strength = prediction.feature.abs().mean(1)
        small = labels_to_grid(labels, strength.shape[-2:])
        chosen = torch.isin(small, torch.tensor(rare))
        inside += strength[chosen].tolist()
        outside += strength[~chosen & (small != IGNORE)].tolist()
    assert m.activation_ratio(run) == pytest.approx(np.mean(inside) / np.mean(outside), rel=1e-4)


def test_thin_classes_are_those_of_the_labels(trained, monkeypatch):
    monkeypatch.setattr(m, "thinnest", lambda labels, classes: [2, 5])
    iou = trained["hwd"].result["iou"]
    known = [iou[c] for c in (2, 5) if iou[c] is not None]
    assert m.thin_iou(trained["hwd"]) == pytest.approx(np.mean(known))
    m._known.clear()


def test_silhouette_is_one_number(trained):
    assert -1 <= m.feature_silhouette(trained["hwd"]) <= 1


def test_order_change_from_the_weights_themselves(trained, monkeypatch):
    draws = np.random.default_rng(0)
    early, late = draws.random((10, 5)), draws.random((10, 5))
    monkeypatch.setattr(m, "_weights", lambda run, percent: early if percent == 10 else late)
    m._known.clear()
    rank = lambda a, b: spearmanr(a, b).statistic  # noqa: E731
    e0, e1, l0, l1 = (w[k::2].mean(0) for w in (early, late) for k in (0, 1))
    expected = (rank(e0, e1) + rank(l0, l1)) / 2 - (rank(e0, l1) + rank(e1, l0)) / 2
    assert m.order_change(trained["hwd"]) == pytest.approx(expected)
    m._known.clear()


def test_weights_of_a_snapshot_and_a_run_without_one(trained, tmp_path):
    weights = m._weights(trained["hwd"], 50)
    assert weights.shape[1] == 11 and np.allclose(weights.sum(1), 11, atol=1e-4)
    run = trained["cwd"]
    kept = run.path / "snapshot-010.safetensors"
    kept.rename(tmp_path / kept.name)
    with pytest.raises(UserError, match="this run's network is kept after 10, 25, 50 % of its steps by newer versions only"):
        m.xor_balance(run, percent=10)
    (tmp_path / kept.name).rename(kept)


def test_a_measure_is_made_once_and_again_for_a_new_result(trained, monkeypatch):
    calls = []
    counted = m.once(lambda run: calls.append(run.id) or len(calls))
    assert counted(trained["cwd"]) == counted(trained["cwd"]) == 1
    path = trained["cwd"].path / "result.json"
    path.write_text(path.read_text())
    assert counted(trained["cwd"]) == 2


def result(**values):
    return SimpleNamespace(result=values)


def of_classes(*rows):
    return [result(iou=list(row)) for row in rows]


def test_measures_of_several_runs():
    joint = lambda name, runs, *others: measures.JOINT[name][1](runs, list(others))  # noqa: E731
    hard = of_classes((0.1, 0.2, 0.8, 0.9), (0.1, 0.2, 0.8, 0.9), (0.2, 0.3, 0.8, 0.8))
    gone = of_classes((0.1, 0.2, 0.8, 0.9, 0.0), (0.1, 0.2, 0.8, 0.9, 0.0), (0.2, 0.3, 0.8, 0.8, 0.0))  # the last class nobody finds
    assert joint("hard_minus_easy", hard) == joint("hard_minus_easy", gone) == pytest.approx(100 * (0.1 - -0.05))
    found_later = of_classes((0.1, 0.2, 0.8, 0.9, 0.1))
    assert joint("hard_minus_easy", gone, found_later) == pytest.approx(100 * 0.05)  # 5 % over the seeds: it counts
    better = of_classes((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, None, 0.5), (0.6, 0.5, 0.1, 0.4))
    assert joint("share_better", better) == pytest.approx(2 / 3 - 0.5)
    gap = of_classes((0.9, 0.3, 0.1), (0.95, 0.6, 0.5))
    assert joint("easy_gap", gap) == pytest.approx(100 * ((0.05 + 0.3 + 0.4) / 3 - 0.05))
    ranks = [result(miou=v) for v in (0.3, 0.5, 0.4, 0.6, 0.5, 0.4)]
    assert joint("teacher_rank", ranks) == pytest.approx(0.5 - spearmanr([3, 4, 5], [5, 6, 4]).statistic)
    # Class 0 was spoiled on the other seed; class 1 only by chance on this one, so its repair does not count.
    other, own = of_classes((0.6, 0.5), (0.5, 0.5), (0.5, 0.5)), of_classes((0.6, 0.5), (0.5, 0.1), (0.7, 0.5))
    assert joint("repaired", own, other) == pytest.approx(20) and math.isnan(joint("repaired", own))


def test_measures_of_one_run():
    rows = [{"kind": "val", "step": s, "miou": v} for s, v in ((50, 0.1), (100, 0.2), (150, 0.3))]
    run = result()
    run.config, run.metrics = SimpleNamespace(schedule=SimpleNamespace(steps=500)), lambda: rows
    assert measures.of_run("early_miou", run) == pytest.approx(20)
    with pytest.raises(UserError, match="thin_iou"):
        measures.unit_of("thin_iuo")


def test_what_was_measured_is_known_without_the_network(trained, tmp_path, monkeypatch):
    run, other = trained["label_teacher"], trained["rdd"]
    before = m.input_scores(run), m.pairwise_kl(run), m.xor_balance(other), m.xor_balance(other, percent=10)
    (tmp_path / "figures").mkdir()
    m.measured().to_csv(tmp_path / "figures" / "measures.csv", index=False)
    facts = {"profile": "smoke", "dataset": "scenes", "classes": [], "split": "test", "train_shares": []}
    (tmp_path / "study.json").write_text(json.dumps(facts))
    line = {"profile": "smoke", "dataset": "scenes", "table": "main", "row": "", "seed": 0, "metric": "miou", "value": 0.5}
    pd.DataFrame([line | {"run": r.id} for r in (run, other)]).to_csv(tmp_path / "results.csv", index=False)
    freeze_measures(tmp_path)
    assert altered(tmp_path) == []
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    assert thaw([run.config, other.config], tmp_path) == [run.id, other.id]
    run, other = find(run.config), find(other.config)
    after = m.input_scores(run), m.pairwise_kl(run), m.xor_balance(other), m.xor_balance(other, percent=10)
    assert all(ours == pytest.approx(theirs) for ours, theirs in zip(after, before))
    with pytest.raises(UserError, match="only the numbers of this run are here; `make reproduce PROFILE=smoke"):
        m.order_change(other)
    assert set(m.measured()["run"]) >= {run.id, other.id}
