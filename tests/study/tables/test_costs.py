"""What stands beside a score: intervals, gain at equal time, parameters of a method, and tables that are refused."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from segkd.config import NetworkConfig, RunConfig
from segkd.losses.method import create_method
from segkd.models import create_model
from segkd.registry import UserError
from segkd.study.tables import step_times
from segkd.study.tables.step_times import digest
from segkd.study.tables.costs import equal_time_gain, extra_parameters, time_ratio
from segkd.study.tables.papers import paper_tables
from segkd.study.tables.printed import printed_tables
from segkd.study.tables.results import summary
from segkd.study.tables.show import shown
from segkd.study.tables.statistics import half_width
from segkd.study.tables.study import open_study


def lines(row, seed, miou, seconds=0.1, teacher=0.0, **more):
    metrics = {"miou": miou, "macc": miou + 0.1, "seconds_per_step": seconds, "teacher_seconds_per_step": teacher}
    return [{"row": row, "seed": seed, "metric": k, "value": v, **more} for k, v in metrics.items()]


def test_equal_time_is_interpolated_between_the_two_lengths():
    own, base, longer = (pd.Series(v, [0, 1]) for v in ([0.60, 0.70], [0.50, 0.50], [0.60, 0.50]))
    gain, seeds = equal_time_gain(own, base, longer, 1.25)  # half the way: 0.55 and 0.50
    assert gain == pytest.approx((0.05 + 0.20) / 2) and seeds == 2
    assert equal_time_gain(own, base, longer, 1.0)[0] == pytest.approx(0.15)
    assert equal_time_gain(own, base, longer, 0.9)[0] == pytest.approx(0.15)  # noise of the clock: not shorter than it is
    assert equal_time_gain(own, base, longer, 1.5)[0] == pytest.approx(0.10)
    assert equal_time_gain(own, base, longer[:1], 1.25) == (pytest.approx(0.05), 1)
    assert equal_time_gain(own, base, longer, 2.5)[0] == pytest.approx(0.10)  # nothing longer to compare with
    gain, seeds = equal_time_gain(own, base, longer[:0], 1.25)
    assert math.isnan(gain) and seeds == 0


def test_time_ratio_is_of_steps_measured_alone_where_both_are_there(tmp_path, monkeypatch):
    base = RunConfig(network=NetworkConfig("pspnet/resnet18", 0.125))
    kd, cwd = (replace(base, method=name, teacher=base) for name in ("kd", "cwd"))
    lines = ["row,ms a step,ms of the teacher's pass,kind", f"baseline,100,0,{digest(base)}", f"KD,110,40.5,{digest(kd)}"]
    (tmp_path / "methods.csv").write_text("\n".join(lines))
    monkeypatch.setattr(step_times, "ALONE", tmp_path / "methods.csv")
    by_the_clock = [pd.DataFrame({"seconds_per_step": [v], "teacher_seconds_per_step": [0.0]}) for v in (0.5, 0.25)]
    assert time_ratio(kd, base, *by_the_clock) == pytest.approx(1.505)
    assert time_ratio(cwd, base, *by_the_clock) == pytest.approx(2.0)  # not measured: by the runs
    monkeypatch.setattr(step_times, "ALONE", tmp_path / "none.csv")
    assert time_ratio(kd, base, *by_the_clock) == pytest.approx(2.0)


def test_half_width_is_the_t_interval_of_the_mean():
    values = pd.Series([30.0, 31.0, 35.0])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert half_width(values.std(), 3) == pytest.approx((high - low) / 2) and math.isnan(half_width(math.nan, 1))


@pytest.mark.parametrize("spec", ["cwd", "cwd+skd", "mgd", "kd+cirkd", "kd+fitnet"])
def test_extra_parameters_are_those_of_the_methods_modules(spec):
    networks = [NetworkConfig("pspnet/resnet18", 0.125), NetworkConfig("pspnet/resnet18", 0.25)]
    student, teacher = (create_model("pspnet", "resnet18", classes=11, width=n.width).info for n in networks)
    modules = create_method(spec).build(student, teacher)
    config = RunConfig(network=networks[0], method=spec, teacher=RunConfig(network=networks[1]))
    assert extra_parameters(config) == sum(p.numel() for p in modules.parameters())


def test_each_students_gain_is_over_its_own_baseline():
    table = printed_tables("lad")["table1"]
    values = {"DeepLabV3-R18: baseline": 0.5, "DeepLabV3-R18: LAD": 0.52, "PSPNet-R18: baseline": 0.3, "PSPNet-R18: LAD": 0.36}
    results = pd.DataFrame([one for row, v in values.items() for seed in (0, 1) for one in lines(row, seed, v + seed / 100)])
    found = summary(table, results, "baseline").set_index("row")
    assert found.loc["DeepLabV3-R18: LAD", "gain"] == pytest.approx(2) and found.loc["PSPNet-R18: LAD", "gain"] == pytest.approx(6)
    assert found.loc["PSPNet-R18: LAD", "paper gain"] == pytest.approx(3.6)
    assert math.isnan(found.loc["PSPNet-R18: baseline", "gain"]) and found.loc["PSPNet-R18: CWD", "verdict"] == "not run"
    assert found.loc["PSPNet-R18: CWD", "paper gain"] == pytest.approx(1.8)


def test_a_row_whose_baseline_was_not_run_says_so():
    table = paper_tables("hwd", None)["main"]
    found = summary(table, pd.DataFrame(lines("HWD", 0, 0.4, 0.1, 0.05)), "baseline").set_index("row")
    assert found.loc["HWD", "verdict"] == "baseline not run" and found.loc["HWD", "ms a step"] == pytest.approx(150)


def test_one_seed_is_said_in_the_cell():
    table = paper_tables("hwd", None)["main"]
    results = pd.DataFrame(lines("baseline", 0, 0.4) + lines("HWD", 0, 0.5) + lines("HWD", 1, 0.5))
    page = shown(summary(table, results, "baseline"), table, missing="make <b>").to_html()
    assert "make &lt;b&gt;" in page
    assert page.count("one seed") == 2  # the baseline's own interval, and that of the gain
    assert "one run" in page and "t interval" in page
    assert "CWD" in page  # has no run, but the paper's number
    plain = paper_tables("all", None)["main"]
    page = shown(summary(plain, results, "baseline"), plain, missing="make").to_html()
    assert "HWD" in page and "CWD" not in page  # nor a number of a paper


@pytest.mark.parametrize("column, values", [("profile", ("quick", "scratch")), ("dataset", ("camvid", "scenes"))])
def test_mixed_results_are_refused(column, values):
    mixed = [one for row, value in zip(("baseline", "HWD"), values) for one in lines(row, 0, 0.4, **{column: value})]
    with pytest.raises(UserError, match=f"several {column}s in one table: {values[0]}, {values[1]}"):
        summary(paper_tables("hwd", None)["main"], pd.DataFrame(mixed), "baseline")


def test_a_table_of_networks_needs_no_runs_for_its_cost_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    study = open_study("rdd", "quick", "camvid", student="pspnet/resnet18")
    found = study.summary("table4").set_index("row")
    assert found.loc["baseline", "GMACs"] == pytest.approx(45.6, abs=0.05) == found.loc["baseline", "paper GMACs"]
    assert (found["runs"] == 0).all() and found.loc["SKD", "extra parameters"] > 1e6
    page = study.table("table4").to_html()
    assert "not run" in page and "make reproduce PROFILE=quick DATASET=camvid TABLES=rdd/table4" in page


def test_rows_of_one_run_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    study = open_study("rdd", "quick", "scenes")
    said = "6 pairs of rows are the same run at this profile, such as DeepLabV3-R18: baseline and DeepLabV3-R18 from scratch: baseline"
    assert said in study.table("table1").to_html()
    assert "TSE alone and RDD, p = 0 % are the same run" in study.table("table5").to_html()
    assert "the same run" not in study.table("table7").to_html()
