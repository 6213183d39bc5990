"""What a study would take: times of finished runs, operations, totals; nothing is written."""

import dataclasses
import math

import pytest

import segkd
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.study import forecast
from segkd.study.execute.progress import in_words
from segkd.study.numbers.step_times import kind_of

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
SCHEDULE = Schedule("adamw", steps=2, batch_size=2, validations=1)
TEACHER = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), SCHEDULE)

pytestmark = pytest.mark.usefixtures("runs")
COMMAND = ["study", "hwd", "--profile", "smoke", "--tables", "main", "--methods", "cwd", "--devices", "cpu"]


def student(method: str, **changes) -> RunConfig:
    return dataclasses.replace(TEACHER, method=method, teacher=TEACHER, **changes)


def test_finished_runs_give_the_times_of_their_kind_and_the_rate_of_others(runs):
    done = [segkd.run(dataclasses.replace(TEACHER, seed=seed)) for seed in (0, 1, 2)]
    middle = sorted(run.result["seconds_per_step"] for run in done)[1]
    wide = dataclasses.replace(TEACHER, network=NetworkConfig("fcn/resnet18", 0.125))
    before = sorted(runs.rglob("*"))
    frame = forecast.forecast([dataclasses.replace(TEACHER, seed=7), wide, *(run.config for run in done)], 11, 1)
    assert frame["source"].tolist() == [forecast.OF_THE_KIND, forecast.BY_RATE] and sorted(runs.rglob("*")) == before
    assert frame["seconds"][0] == pytest.approx(2 * middle)
    more = forecast.operations([wide], 11) / forecast.operations([TEACHER], 11)
    assert frame["seconds"][1] == pytest.approx(2 * middle * more, rel=0.01)


def test_a_cohort_pays_its_teacher_once(monkeypatch):
    times = {kind_of(student("cwd")): (1.0, 0.5), kind_of(student("kd")): (1.5, 0.5), kind_of(TEACHER): (3.0, 0.0)}
    monkeypatch.setattr(forecast, "speeds", lambda classes: (times, math.nan))
    configs = [student("cwd"), student("kd"), student("hwd")]
    assert forecast.forecast(configs[:2], 11, 1)["seconds"].tolist() == [6.0, 2 * (1.0 + 1.5 + 0.5)]
    frame = forecast.forecast(configs, 11, 1)
    assert frame["runs"].tolist() == [1, 3] and math.isnan(frame["seconds"][1]) and frame["source"][1] == "no finished run"
    said = forecast.forecast_lines(frame, configs, 1)
    assert "fcn/resnet18 x0.0625: cwd, kd, hwd " in said[2] and " ?   no finished run" in said[2]
    assert said[-1].startswith("4 runs in 2 jobs to train, 0 are there; time unknown until one run is finished, ")


def test_kinds_differ_in_what_a_step_costs_alone():
    one, other = student("cwd"), lambda part, **changes: student("cwd", **{part: dataclasses.replace(getattr(TEACHER, part), **changes)})
    alike = [student("cwd", seed=3), student("cwd", hyper={"cwd": {"temperature": 1.0}}), other("schedule", steps=9)]
    others = [TEACHER, student("kd"), other("network", width=0.125), other("data", crop=(32, 32)), other("schedule", batch_size=4)]
    assert {kind_of(c) for c in alike} == {kind_of(one)} and len({kind_of(c) for c in [one, *others]}) == 6


def test_dry_run_writes_nothing_and_training_fills_it(runs, capsys):
    assert main([*COMMAND, "--dry-run"]) == 0
    assert "3 runs in 3 jobs to train, 0 are there" in capsys.readouterr().out and not runs.exists()
    assert main(COMMAND) == 0
    assert "all 3 runs of hwd, smoke on scenes, are in" in capsys.readouterr().out and len(list(runs.glob("*/result.json"))) == 3
    assert main([*COMMAND, "--dry-run"]) == 0
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


def test_a_study_takes_other_networks(capsys):
    assert main([*COMMAND, "--dry-run", "--student", "fcn/resnet18", "--teacher-network", "pspnet/resnet50"]) == 0
    printed = capsys.readouterr().out
    assert "fcn/resnet18" in printed and "pspnet/resnet50" in printed and "pspnet/resnet18" not in printed
    assert main([*COMMAND, "--dry-run", "--student", "fcn/resnet81"]) == 2
    assert "did you mean 'fcn/resnet18'" in capsys.readouterr().err
