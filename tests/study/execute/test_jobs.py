"""Which jobs there are and when each may start, without training and without Ray; what a cluster is asked for."""

import dataclasses

import pytest

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.registry import UserError
from segkd.runs import cohort_key
from segkd.study.execute.executor import execute
from segkd.study.execute.jobs import plan_jobs, ready_jobs, with_teachers
from segkd.study.execute.ray_cluster import parse_resources

DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
GRAND = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.25), Schedule(steps=3, batch_size=2, validations=1))
TEACHER = dataclasses.replace(GRAND, network=NetworkConfig("pspnet/resnet18", 0.1875), method="kd", teacher=GRAND)
STUDENT = dataclasses.replace(GRAND, network=NetworkConfig("pspnet/resnet18", 0.125), teacher=TEACHER)
STUDENTS = [dataclasses.replace(STUDENT, method=m, seed=s) for s in (0, 1) for m in ("kd", "cwd", "hwd")]


pytestmark = pytest.mark.usefixtures("runs")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_teachers_go_alone_and_first_and_cohorts_can_step_together(workers):
    jobs = plan_jobs(STUDENTS, workers)
    assert sorted(c.id for job in jobs for c in job) == sorted(with_teachers(STUDENTS)), "each once"
    assert [job[0].id for job in jobs[:2]] == [GRAND.id, TEACHER.id] and all(len(job) == 1 for job in jobs[:2])
    assert all(len({cohort_key(c) for c in job}) == 1 for job in jobs)
    assert {len(job) for job in jobs[2:]} == {1: {3}, 2: {1, 2}, 8: {1}}[workers]


def test_a_job_is_ready_when_its_teacher_is_there():
    jobs, done, order = plan_jobs(STUDENTS, 1), set(), []
    while ready := ready_jobs([job for job in jobs if job[0].id not in done], lambda config: config.id in done):
        order.append({c.id for job in ready for c in job})
        done |= order[-1]
    assert order == [{GRAND.id}, {TEACHER.id}, {c.id for c in STUDENTS}]


def test_resources():
    for text, numbers in {"cpu=2, gpu=0.25": (2.0, 0.25), "gpu=1": (1.0, 1.0)}.items():
        assert parse_resources(text) == dict(zip(("num_cpus", "num_gpus"), numbers))
    for wrong in ("gpus=1", "gpu", "gpu=-1", "cpu=inf", "cpu=nan", ""):
        with pytest.raises(UserError, match="resource"):
            parse_resources(wrong)


@pytest.mark.parametrize("options, words", [
    ({"executor": "rai"}, "ray"), ({"devices": ["cpu"], "executor": "ray"}, "devices cpu"), ({"resources": "cpu=1"}, "executor=ray"),
])  # fmt: skip
def test_an_executor_takes_its_own_options_alone(options, words):
    with pytest.raises(UserError, match=words):
        execute([GRAND], **options)
