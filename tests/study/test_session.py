"""A study in sessions: stops in time, leaves a folder, goes on from it on another machine with the same bits."""

import itertools
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from segkd import runs
from segkd.registry import UserError
from segkd.study import session as module
from segkd.study.report.reproduce import open_studies
from segkd.train.state import checkpoints


def spent(monkeypatch, ticks, folder, machine):
    """A session of so many seconds, where each look at the clock takes one: each step has one look."""
    clock = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setenv("SEGKD_RUNS", str(machine))
    return list(module.session((ticks + 0.5) / 60 / module.SHARE, "smoke", "scenes", folder, "cpu"))


@pytest.mark.slow
def test_a_study_goes_on_where_a_session_left_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 100_000)
    out, first, second = tmp_path / "out", tmp_path / "first", tmp_path / "second"
    spent(monkeypatch, 7, out, first)  # a look and four steps for the baseline, then a look and two steps of a teacher
    study = open_studies("smoke", "scenes", {})[0]
    baseline, teacher = module.in_order([study])[:2]
    assert runs.find(baseline).done and not runs.find(teacher).done and len(checkpoints(runs.find(teacher).path)) == 1
    assert {"results.csv", "curves.csv", "images.npz", "study.json", "hashes.json", "runs"} == {p.name for p in out.iterdir()}
    assert all(p.stat().st_size <= 100_000 for p in (out / "runs").rglob("*")) and len(list((out / "runs" / teacher.id).glob("checkpoint-*"))) > 1

    lines = spent(monkeypatch, 3, out, second)
    ours, theirs = runs.find(baseline), first / baseline.id
    assert lines[0].startswith("2 runs taken over") and ours.result == runs.read_json(theirs / "result.json", "") | {"weights": "float16"}
    exact, half = load_file(theirs / "model.safetensors"), ours.load_model("cpu").state_dict()
    assert all(torch.equal(half[name], value.half().to(value.dtype) if value.is_floating_point() else value) for name, value in exact.items())
    resumed = runs.find(teacher)
    assert resumed.done and [e["step"] for e in runs.read_json(resumed.path / "env.json", "")["resumed"]] == [2]

    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "straight"))
    straight = runs.run(teacher, "cpu")
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "third"))
    module.take_back(out)  # a teacher comes back to the last bit
    assert (runs.find(teacher).path / "model.safetensors").read_bytes() == (straight.path / "model.safetensors").read_bytes()

    next((out / "runs" / baseline.id).glob("model.safetensors.*")).unlink()
    spent(monkeypatch, 0, out, tmp_path / "fourth")  # its numbers are there all the same
    assert runs.find(baseline).kept and not runs.find(teacher).kept


def test_sigterm_ends_the_time_and_a_run_goes_on_from_where_it_is_farthest(tmp_path, monkeypatch):
    looks, out, second = itertools.count(), tmp_path / "out", tmp_path / "second"
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "first"))

    def now():
        if next(looks) == 2:  # after the first step
            signal.raise_signal(signal.SIGTERM)
        return 0.0

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
    before = signal.getsignal(signal.SIGTERM)
    lines = list(module.session(60, "smoke", "scenes", out, "cpu"))
    assert signal.getsignal(signal.SIGTERM) is before
    baseline = module.in_order([open_studies("smoke", "scenes", {})[0]])[0]
    names = lambda folder: sorted(p.name for p in folder.glob("checkpoint-*"))
    assert lines[-1].startswith("0 of ") and names(out / "runs" / baseline.id) == ["checkpoint-0000002.pt"]
    shutil.copytree(out / "runs" / baseline.id, out / "runs" / f".{baseline.id}")  # killed while it was written

    monkeypatch.setenv("SEGKD_RUNS", str(second))
    folder = second / baseline.id
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((out / "runs" / baseline.id / "config.json").read_bytes())  # killed while it was taken over
    assert module.take_back(out) == [baseline.id] and names(folder) == ["checkpoint-0000002.pt"]
    (folder / "checkpoint-0000003.pt").touch()
    assert module.take_back(out) == []  # here it is farther


def test_a_wrong_folder_or_no_time_is_one_line(tmp_path):
    (tmp_path / "study.json").write_text('{"profile": "gpu", "dataset": "camvid", "classes": [], "split": "test", "train_shares": []}')
    with pytest.raises(UserError, match="holds gpu on camvid, not smoke on scenes"):
        list(module.session(1, "smoke", "scenes", tmp_path))
    with pytest.raises(UserError, match="MINUTES: 0"):
        list(module.session(0, "smoke", "scenes", tmp_path))


def test_as_many_step_together_as_will_be_done(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    configs = module.in_order([open_studies("smoke", "scenes", {})[0]])
    known = {c.id: c for c in configs} | {c.teacher.id: c.teacher for c in configs if c.teacher}
    taught_by = {c.teacher.id for c in configs if c.teacher}
    done = {c.id for c in known.values() if c.method == "baseline" or c.method.startswith("lad") or c.id in taught_by}
    result = {"seconds_per_step": 1.0, "teacher_seconds_per_step": 0.5}  # four steps: 4 s, and 2 s of a teacher
    fake = lambda c: SimpleNamespace(done=c.id in done, path=tmp_path / c.id, result=result, config=c)
    monkeypatch.setattr(module, "find", fake)
    ordered = list(module.with_teachers(configs).values())
    assert len(module.next_job(ordered, taught_by, set(), 1.0)) == 1
    assert len(module.next_job(ordered, taught_by, set(), 14.5)) == 3
