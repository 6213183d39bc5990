"""A whole small study of STDC: a label-assisted teacher with detail guidance, its student under lad+cwd, and its export."""

from dataclasses import replace

import pytest
import torch

from segkd import export, formats
from segkd.config import NetworkConfig, RunConfig, Schedule
from segkd.prediction import resize_scores
from segkd.runs import Run, run
from tests.train.harness import DATA

SCHEDULE = Schedule(steps=3, batch_size=2, lr=0.02, validations=1)
TEACHER = RunConfig(DATA, NetworkConfig("stdc/stdc1", 0.25, extra_channels=1), SCHEDULE, method="lad")
STUDENT = RunConfig(DATA, NetworkConfig("stdc/stdc2", 0.25), SCHEDULE, method="lad+cwd", teacher=TEACHER)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def terms(one: Run) -> set[str]:
    return set.intersection(*(set(row) for row in one.metrics() if row["kind"] == "train"))


def test_a_student_of_a_label_assisted_teacher():
    student, teacher = run(STUDENT, "cpu"), run(TEACHER, "cpu")
    assert {"task", "task_aux", "detail", "cwd"} <= terms(student)
    assert {"task", "task_aux", "detail", "lad/consistency"} <= terms(teacher) and teacher.result["label_input"]
    model = student.load_model()
    assert model.detail_head is not None and student.result["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_the_student_as_onnx_at_sizes_that_were_not_traced():
    student = run(STUDENT, "cpu")
    found, model = export.export_run(student, "onnx"), student.load_model()
    assert found.miou == pytest.approx(student.result["miou"], abs=1e-6)
    for batch, height, width in ((1, 33, 32), (2, 57, 101), (3, 96, 65)):
        images = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            wanted = resize_scores(model(images).logits, (height, width))
        assert (formats.load_onnx(found.path)(images) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_rdd_weights_the_task_of_an_stdc_student():
    teacher = replace(TEACHER, network=NetworkConfig("stdc/stdc1", 0.125), method="baseline")
    found = run(replace(STUDENT, network=NetworkConfig("stdc/stdc1", 0.125), method="kd+rdd", teacher=teacher), "cpu")
    assert {"task", "task_aux", "detail", "kd"} <= terms(found)
