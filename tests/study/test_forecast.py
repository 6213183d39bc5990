"""What a study would take: step times of finished runs or timed ones, the order of jobs, totals; nothing is written."""

import dataclasses

import pytest
import torch

import segkd
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data import create_dataset
from segkd.runs import find
from segkd.study import forecast
from segkd.study.execute import step_times
from segkd.study.execute.progress import in_words
from segkd.study.execute.step_times import StepTime, kind_of, measured_times, timed

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
SCHEDULE = Schedule("adamw", steps=2, batch_size=2, validations=1)
TEACHER = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), SCHEDULE)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def student(method: str, **changes) -> RunConfig:
    return dataclasses.replace(TEACHER, method=method, teacher=TEACHER, **changes)


def test_finished_runs_of_a_kind_give_its_times(monkeypatch):
    runs = [segkd.run(dataclasses.replace(TEACHER, seed=seed)) for seed in (0, 1, 2)]
    found = measured_times("cpu")
    assert list(found) == [kind_of(TEACHER)] and measured_times("some GPU") == {}
    middle = sorted(run.result["seconds_per_step"] for run in runs)[1]
    assert found[kind_of(TEACHER)].own == middle and found[kind_of(TEACHER)].source == "finished runs"
    monkeypatch.setattr(forecast, "timed", lambda *a: pytest.fail("timed although there are runs"))
    more = dataclasses.replace(TEACHER, seed=7)
    frame = forecast.forecast([more, *(run.config for run in runs)], 11, 1, "cpu")
    assert frame["seed"].tolist() == [7] and frame["ms"][0] == pytest.approx(1e3 * middle)
    passes = 2 + 2  # one validation and the result, two images each, of the size that is trained on
    assert frame["seconds"][0] == pytest.approx(2 * middle + passes * middle / 2 / 3)
    assert not find(more).path.exists()


def test_kinds_differ_in_what_a_step_costs_alone():
    one = student("cwd")
    alike = [dataclasses.replace(one, seed=3), student("cwd", hyper={"cwd": {"temperature": 1.0}})]
    longer = dataclasses.replace(SCHEDULE, steps=9)
    alike.append(dataclasses.replace(one, schedule=longer))
    others = [TEACHER, student("kd"), student("cwd", network=NetworkConfig("fcn/resnet18", 0.125))]
    others += [student("cwd", data=dataclasses.replace(DATA, crop=(32, 32)))]
    others += [student("cwd", schedule=dataclasses.replace(SCHEDULE, batch_size=4))]
    assert {kind_of(c) for c in alike} == {kind_of(one)} and len({kind_of(c) for c in [one, *others]}) == 6


def test_a_step_is_timed_where_there_is_no_run():
    found = timed(student("kd+skd"), 11, CPU)
    assert 0 < found.own < 60 and 0 < found.teacher < found.own and found.source == "timed"
    plain = timed(TEACHER, 11, CPU)
    parameters = sum(p.numel() for p in segkd.create_model("fcn", "resnet18", classes=11, width=0.0625).parameters())
    copies = 1 + 3 + 2 * (1 + 2)  # the network, snapshots, and checkpoints with AdamW's two moments
    assert plain.folder == pytest.approx(4 * parameters * copies, rel=0.05) and plain.teacher == 0


def test_a_large_step_is_timed_small_and_scaled(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(step_times, "PIXELS", 2 * 33 * 40 * 0.0625)
    size, batch = dataclasses.replace(DATA, size=(66, 80)), dataclasses.replace(SCHEDULE, batch_size=8)
    large = dataclasses.replace(TEACHER, data=size, schedule=batch)
    assert timed(large, 11, CPU).source == "timed, 2 of 33x40"
    once = timed(TEACHER, 11, CPU)
    assert once.source == "timed" and timed(large, 11, CPU).own == pytest.approx(16 * once.own)


def test_jobs_begin_when_a_worker_is_free_and_their_teacher_is_there(monkeypatch):
    other = dataclasses.replace(TEACHER, seed=1)
    configs = [student("cwd"), student("kd"), student("hwd"), dataclasses.replace(student("cwd"), seed=1, teacher=other)]
    seconds = {"baseline": (3.0, 0.0), "cwd": (1.0, 0.5), "kd": (1.5, 0.5), "hwd": (2.0, 0.5)}  # a step's own, teacher's
    fake = lambda config, classes, device: StepTime(*seconds[config.method], 1e6, "timed")  # noqa: E731
    monkeypatch.setattr(forecast, "timed", fake)
    monkeypatch.setattr(forecast, "_evaluated_images", lambda config: 0.0)
    frame = forecast.forecast(configs, 11, 2, "cpu")
    assert frame[["begin", "seconds", "runs"]].values.tolist() == [
        [0, 6, 1], [0, 6, 1],  # two teachers at once
        [6, 6, 2], [6, 5, 1],  # cwd and kd share the teacher's pass: 2 (0.5 + 1 + 1.5); hwd 2 (0.5 + 2)
        [11, 3, 1],  # cwd of the other seed, when hwd is done
    ]  # fmt: skip
    text = forecast.lines(frame, configs, 2, "cpu")
    assert text[-1].startswith("6 runs in 5 jobs to train, 0 are there; about 14 s with 2 at a time, 0.0072 CPU hours, 0.006 GB")
    assert "fcn/resnet18 x0.0625: cwd, kd " in text[3]


def test_evaluated_images_count_by_their_area():
    images = {split: len(create_dataset("scenes", split=split)) for split in ("val", "test")}
    half = RunConfig(DataConfig(size=(96, 128), crop=(96, 64)), schedule=dataclasses.replace(SCHEDULE, validations=5))
    assert forecast._evaluated_images(half) == 2 * (5 * images["val"] + images["test"])
    assert forecast._evaluated_images(dataclasses.replace(half, data=DataConfig("cityscapes", root="nowhere"))) == 0


def test_dry_run_writes_nothing_and_training_fills_it(root, capsys):
    command = ["study", "hwd", "--profile", "smoke", "--tables", "main", "--methods", "cwd", "--devices", "cpu"]
    assert main([*command, "--dry-run"]) == 0
    dry = capsys.readouterr()
    assert "3 runs in 3 jobs to train, 0 are there" in dry.out
    assert "timed" in dry.out and "timing two steps: pspnet/resnet18 x0.125: cwd" in dry.err and not root.exists()
    assert main(command) == 0
    assert "all 3 runs of hwd, smoke on scenes, are in" in capsys.readouterr().out and len(list(root.glob("*/result.json"))) == 3
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("nothing to train: all 3 runs are in")


def test_operations_are_those_of_all_passes():
    label = dataclasses.replace(TEACHER, network=NetworkConfig("fcn/resnet18", 0.0625, extra_channels=1), method="lad")
    wide = dataclasses.replace(TEACHER, network=NetworkConfig("fcn/resnet18", 0.125))
    macs = lambda width, channels: segkd.models.complexity(  # noqa: E731
        segkd.create_model("fcn", "resnet18", in_channels=channels, classes=11, width=width), (33, 40)
    )["macs"]
    images = 2 * 2  # steps times batch
    assert forecast.operations([TEACHER], 11) == images * 2 * 3 * macs(0.0625, 3)
    assert forecast.operations([label], 11) == images * 2 * 3 * 2 * macs(0.0625, 4)
    job = [dataclasses.replace(student(method), teacher=wide) for method in ("cwd", "kd")]
    assert forecast.operations(job, 11) == images * 2 * (2 * 3 * macs(0.0625, 3) + macs(0.125, 3))


def test_time_in_words():
    spoken = {5.4: "5 s", 60: "1 min", 3570: "1 h 00 min", 3599 * 3: "3 h 00 min", 11160: "3 h 06 min", 86400 * 4.25: "4.2 days"}
    assert {seconds: in_words(seconds) for seconds in spoken} == spoken


def test_a_study_takes_other_networks(capsys, monkeypatch):
    monkeypatch.setattr(forecast, "timed", lambda *a: StepTime(0.1, 0.0, 1.0, "made up"))
    command = ["study", "hwd", "--profile", "smoke", "--tables", "main", "--methods", "cwd", "--devices", "cpu", "--dry-run"]
    assert main([*command, "--student", "fcn/resnet18", "--teacher-network", "pspnet/resnet50"]) == 0
    printed = capsys.readouterr().out
    assert "fcn/resnet18" in printed and "pspnet/resnet50" in printed and "pspnet/resnet18" not in printed
    assert main([*command, "--student", "fcn/resnet81"]) == 2
    assert "did you mean 'fcn/resnet18'" in capsys.readouterr().err
