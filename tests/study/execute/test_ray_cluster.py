"""A study on a Ray cluster of two machines (processes of this one), of which one is lost in the middle: the inline numbers."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.runs import find, run_cohort
from segkd.study.execute.executor import execute
from segkd.study.execute.jobs import plan_jobs
from segkd.train.state import checkpoints

DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
TEACHER = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.1875), Schedule(steps=10, batch_size=2, lr=0.01, validations=1))
STUDENT = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=600, batch_size=2, lr=0.01, validations=2), teacher=TEACHER)
STUDENTS = [dataclasses.replace(STUDENT, method=method) for method in ("cwd", "fakd_cwd")]


def numbers(configs) -> list[tuple]:
    """All that a run says of itself, bit for bit: weights, rows, confusion."""
    found = [find(c) for c in configs]
    return [((r.path / "model.safetensors").read_bytes(), r.metrics(), r.result["confusion"]) for r in found]


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.mark.slow
def test_a_study_survives_the_loss_of_a_machine(tmp_path, monkeypatch, cluster):
    import ray

    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "inline"))
    for job in plan_jobs(STUDENTS, 2):
        run_cohort(job, "cpu")
    inline = numbers([TEACHER, *STUDENTS])

    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "ray"))
    monkeypatch.setenv("SEGKD_CHECKPOINT_SECONDS", "0.2")
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    lost = []

    def lose_one() -> None:
        """As soon as both students have a checkpoint, each on a machine of its own."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if all(checkpoints(find(c).path) for c in STUDENTS) and not any(find(c).done for c in STUDENTS):
                lost.append(machines[1])
                return cluster.remove_node(machines[1], allow_graceful=False)
            time.sleep(0.02)

    killer = threading.Thread(target=lose_one)
    killer.start()
    execute(STUDENTS, executor="ray", resources="cpu=1")
    killer.join()
    assert lost, "no machine was lost while both students were trained"
    assert numbers([TEACHER, *STUDENTS]) == inline
    resumed = [json.loads((find(c).path / "env.json").read_text())["resumed"] for c in STUDENTS]
    assert sum(map(len, resumed)) >= 1 and all(0 < entry["step"] for entries in resumed for entry in entries)
