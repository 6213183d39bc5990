"""Times on a GPU whose events pass when the test says so; what is set there; what a CPU refuses."""

from types import SimpleNamespace

import pytest
import torch

from segkd.config import RunConfig, Schedule
from segkd.registry import UserError
from segkd.train import clock
from segkd.train.record import begin_peak, origin
from segkd.train.runtime import check_schedule, computing

CUDA = torch.device("cuda")


class Gpu:
    """Work that is asked for ends later: ``passed`` says how far the stream has come."""

    def __init__(self):
        self.asked, self.passed, self.waits = 0.0, 0.0, 0

    def Event(self, enable_timing):
        gpu, event = self, SimpleNamespace(at=None)
        event.record = lambda stream: setattr(event, "at", gpu.asked)
        event.query = lambda: gpu.passed >= event.at
        event.elapsed_time = lambda end: 1000 * (end.at - event.at)
        event.synchronize = lambda: gpu.wait(event.at)
        return event

    def wait(self, until):
        self.waits += self.passed < until
        self.passed = max(self.passed, until)


def test_teacher_and_students_get_their_own_time_without_a_wait(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    teachers, students = [clock.Clock(CUDA) for _ in range(2)], [clock.Clock(CUDA) for _ in range(2)]
    for _ in range(5):
        with clock.timed(*teachers):
            gpu.asked += 4.0  # asked for, not done: the call returns at once
        for student, own in zip(students, (1.0, 2.0)):
            with clock.timed(student):
                gpu.asked += own
                gpu.passed = gpu.asked - own / 2  # the step's one wait
    assert gpu.waits == 0 and [c.read for c in teachers] == [16.0, 16.0]  # those of the last step are read later
    assert [c.seconds for c in (*teachers, *students)] == [20.0, 20.0, 5.0, 10.0]
    assert not any(c._under_way for c in (*teachers, *students))


def test_the_memory_of_a_device_by_number_is_reset_though_nothing_was_on_it_yet(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", called.append)
    begin_peak(torch.device("cuda", 1))
    begin_peak(torch.device("cpu"))
    assert called == ["init", torch.device("cuda", 1)]  # torch refuses the second before the first


def test_what_fails_is_not_counted():
    own = clock.Clock(torch.device("cpu"))
    with pytest.raises(KeyError), clock.timed(own):
        raise KeyError
    assert own.seconds == 0.0


def test_float32_is_float32_and_determinism_has_a_switch(monkeypatch):
    flags = lambda: (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    outside = flags()
    assert outside == (False, False, False, "highest")  # torch's own default has TF32 in convolutions
    for precision in ("float32", "bf16"):
        with computing(precision, CUDA):
            assert flags() == (True, True, False, "highest") and torch.is_deterministic_algorithms_warn_only_enabled()
    monkeypatch.setenv("SEGKD_DETERMINISTIC", "0")
    with computing("tf32", CUDA):
        assert flags() == (False, False, True, "high")
    with computing("float32", torch.device("cpu")):
        assert flags() == outside
    assert flags() == outside
    here = {"device": "NVIDIA X", "deterministic": False, "data": "0"}
    assert origin(RunConfig(), here) == {"device": {"device": "NVIDIA X", "deterministic": "False"}} and origin(RunConfig(), {"device": "cpu"}) == {}


def test_tf32_is_refused_where_there_is_none():
    with pytest.raises(UserError, match="precision tf32: a device of type cpu has none"):
        check_schedule(Schedule(precision="tf32"), torch.device("cpu"))
    check_schedule(Schedule(precision="tf32"), CUDA)
    assert RunConfig(schedule=Schedule(precision="tf32")).id != RunConfig().id
