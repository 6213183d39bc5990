"""What stands beside a score: intervals, gain at equal time, parameters of a method, and tables that are refused."""

import json
import math
import re
from dataclasses import replace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from segkd.config import NetworkConfig, RunConfig
from segkd.losses.method import create_method
from segkd.models import create_model
from segkd.runs import find
from segkd.study.numbers import step_times
from segkd.study.numbers.costs import equal_time_gain, extra_parameters, step_ms
from segkd.study.numbers.show import view, with_runs
from segkd.study.numbers.step_times import digest
from segkd.study.numbers.study import open_study
from segkd.study.numbers.summaries import summary
from segkd.study.report.markup import clean_html
from segkd.study.tables.papers import paper_tables
from segkd.study.tables.printed import printed_tables


def lines(row, seed, miou, seconds=0.1, teacher=0.0):
    metrics = {"miou": miou, "macc": miou + 0.1, "seconds_per_step": seconds, "teacher_seconds_per_step": teacher}
    return [{"row": row, "seed": seed, "metric": k, "value": v} for k, v in metrics.items()]


def test_equal_time_is_interpolated_between_the_two_lengths():
    own, base, longer = (pd.Series(v, [0, 1]) for v in ([0.60, 0.70], [0.50, 0.50], [0.60, 0.50]))
    # Half the way, 0.55 and 0.50; noise of the clock makes nothing shorter; there is nothing longer to compare with.
    for ratio, expected in {1.25: (0.05 + 0.20) / 2, 1.0: 0.15, 0.9: 0.15, 1.5: 0.10, 2.5: 0.10}.items():
        assert equal_time_gain(own, base, longer, ratio) == (pytest.approx(expected), 2)
    assert equal_time_gain(own, base, longer[:1], 1.25) == (pytest.approx(0.05), 1)
    gain, seeds = equal_time_gain(own, base, longer[:0], 1.25)
    assert math.isnan(gain) and seeds == 0


def test_a_table_has_one_clock(tmp_path, monkeypatch):
    """Steps measured by themselves where any row's are, and no other beside them; else the runs' own time for all of them."""
    student, taught = RunConfig(), RunConfig(network=NetworkConfig("deeplabv3/resnet50"))
    configs = {"baseline": student, "KD": replace(student, method="kd", teacher=taught), "CWD": replace(student, method="cwd", teacher=taught)}
    table = ["kind,rounds", f"{digest(configs['baseline'])},90 100 101", f"{digest(configs['KD'])},150.5 180 150"]
    (tmp_path / "methods.csv").write_text("\n".join(table))
    monkeypatch.setattr(step_times, "ALONE", tmp_path / "methods.csv")
    clock = pd.DataFrame({"seconds_per_step": [0.1, 0.3, 0.1], "teacher_seconds_per_step": [0.05, 0.05, 0.05]})
    assert step_ms(configs, {"baseline": clock, "KD": clock}) == ({"baseline": 100.0, "KD": 150.5}, True)
    assert step_ms(configs, {"baseline": clock, "CWD": clock}) == (pytest.approx({"baseline": 100.0, "CWD": math.nan}, nan_ok=True), True)
    monkeypatch.setattr(step_times, "ALONE", tmp_path / "none.csv")
    assert step_ms(configs, {"KD": clock}) == ({"KD": pytest.approx(150)}, False)


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
    voc = summary(printed_tables("lad")["table3"], results, "baseline").set_index("row")  # where the paper's gain is not its difference
    assert voc.loc["DeepLabV3-R18: SKD", "paper gain"] == 0.2 and voc.loc["DeepLabV3-R18: SKD", "paper mIoU %"] - voc.loc["DeepLabV3-R18: baseline", "paper mIoU %"] != pytest.approx(0.2)


def test_a_row_whose_baseline_was_not_run_says_so():
    table = paper_tables("hwd", None)["main"]
    found = summary(table, pd.DataFrame(lines("HWD", 0, 0.4, 0.1, 0.05)), "baseline").set_index("row")
    assert found.loc["HWD", "verdict"] == "reference not run"


def test_a_table_says_what_was_run_and_folds_the_rest():
    table = paper_tables("hwd", None)["main"]
    results = pd.DataFrame(lines("baseline", 0, 0.4) + lines("HWD", 0, 0.5) + lines("HWD", 1, 0.5))
    made = view(summary(table, results, "baseline"), table, {"HWD": "ours <b>"}, {"HWD": ["run-a"], "baseline": ["run-b"]}, missing="make <b>", reference="baseline")
    page = BeautifulSoup(made.to_html(), "html.parser")
    folds = {fold.summary.get_text(): fold.extract().get_text() for fold in page.find_all("details")}
    text = page.get_text()
    assert "ours <b>" in text and "1" in [cell.get_text() for cell in page.find_all("td", title="run-a")] and "make <b>" in page.find_all("code")[-1].get_text()
    assert "more rows are not run here" in text and "CWD" not in text, "a row that was not run is counted, not shown"
    assert text.count("one\u00a0seed") == 1 and "over baseline, paired by seed" in text and "33." not in text
    (title,) = folds
    assert title.startswith("In the paper (Table II") and "CWD" in folds[title] and "33.85" in folds[title], "the paper's stand apart"
    assert "gain (computed)" in folds[title] and "+3.99" in folds[title], "HWD prints no gains"
    alone = view(summary(table, pd.DataFrame(lines(table.rows[-1].label, 0, 0.5)), None), table, {}, {table.rows[-1].label: ["run-t"]}).to_html()
    assert "Nothing of this table is run here but its teacher" in alone and "run-t" not in alone and "Run here" not in alone
    beside = view(summary(table, results, "baseline"), table, {}, {"HWD": ["run-a"]}, comparable=True).to_html()
    assert "33.85" in beside and "<details" not in beside


def test_the_tuning_table_shows_the_val_scores_that_chose():
    table, (label, other) = paper_tables("all", None)["tuning"], [row.label for row in paper_tables("all", None)["tuning"].rows][:2]
    results = pd.DataFrame(lines(label, 0, 0.3) + lines(other, 0, 0.31) + [{"row": label, "seed": 0, "metric": "val_last", "value": 0.4}])
    made = view(summary(table, results, label), table, {}, {label: ["run-a"], other: ["run-b"]}).to_html()
    assert [cell.get_text() for cell in BeautifulSoup(made, "html.parser").find_all("tr")[1].find_all("td")][1:3] == ["40.0", "30.0"]
    assert "val" not in view(summary(paper_tables("hwd", None)["main"], pd.DataFrame(lines("HWD", 0, 0.5)), None), paper_tables("hwd", None)["main"], {}, {}).to_html()


def test_a_table_of_networks_needs_no_runs_for_its_cost_columns(runs):
    study = open_study("rdd", "quick", "camvid", student="pspnet/resnet18")
    found = study.summary("table4").set_index("row")
    assert found.loc["baseline", "paper GMACs (recounted)"] == pytest.approx(45.6, abs=0.05) == found.loc["baseline", "paper GMACs"]
    assert (found["runs"] == 0).all() and found.loc["SKD", "extra parameters"] > 1e6
    page = study.table("table4").to_html()
    assert "Nothing of this table is run here: <code>make reproduce PROFILE=quick DATASET=camvid TABLES=rdd/table4" in page
    assert "What it costs" not in page and "GMACs (recounted)" in page, "counts of the paper's networks stand with its own"


def finish(config):
    path = find(config).path
    path.mkdir(parents=True, exist_ok=True)
    result = {"split": "test", "miou": 0.3, "macc": 0.3, "iou": [0.3], "classes": ["Sky"], "seconds_per_step": 0.1, "teacher_seconds_per_step": 0.0}
    (path / "result.json").write_text(json.dumps(result))


def test_numbers_that_stand_higher_up_the_page_are_not_repeated(runs):
    """LAD Table 9 is a grid over the noise: its default is the LAD of the main comparison, its other places are not."""
    study = open_study("lad", "quick", "scenes")
    for row in study.rows("main"):
        finish(study.config(row, 0))
    page = BeautifulSoup(study.table("table9").to_html(), "html.parser")
    assert page.a["href"] == "#main" and "The same runs stand in the main comparison" in page.p.get_text()
    assert BeautifulSoup(study.table("main").to_html(), "html.parser").select_one("#main table")
    assert all(table.find_parent("details") for table in page.find_all("table"))
    finish(next(study.config(row, 0) for row in study.rows("table9") if not study.runs("table9", row.label)))
    page = BeautifulSoup(study.table("table9").to_html(), "html.parser")
    assert not page.a and any(not table.find_parent("details") for table in page.find_all("table")), "one run more is a table again"
    study = open_study("fakd", "quick", "scenes")
    for row in study.rows("main"):
        finish(study.config(row, 0))
    assert "mAcc" in study.table("table1").to_html().split("<details>")[0], "the main comparison does not show the accuracy"


def test_no_row_is_called_by_a_network_that_its_runs_do_not_have(runs):
    """FAKD Table 1 names four pairs of networks; at `quick` one pair of another width is run, once for both starts."""
    study = open_study("fakd", "quick", "scenes")
    for row in study.rows("table1"):
        if not row.network or row.network == "pspnet/resnet18":
            finish(study.config(row, 0))
    page = BeautifulSoup(study.table("table1").to_html(), "html.parser")
    for fold in page.find_all("details"):
        fold.extract()
    rows = [cells[0].get_text() for line in page.find_all("tr") if (cells := line.find_all("td"))]
    assert rows == ["teacher (plain, larger): pspnet/resnet18 (width 0.25)", "baseline", "SKD", "IFVD", "CIRKD", "CWD", "FAKD"]
    assert page.p.get_text() == "Run here: scenes at 96x128; student pspnet/resnet18 (width 0.125), from random weights"
    assert not re.search("R101|R18|PSPNet|from scratch", page.get_text())


def test_measured_numbers_name_their_runs_and_others_do_not():
    frame = pd.DataFrame({"row": ["KD", "a <b>"], "mIoU %": [35.1, 30.0], "paper mIoU %": [70.0, 71.0]})
    style = frame.style.hide(axis="index").format({"mIoU %": "{:.1f}"}, escape="html")
    page = BeautifulSoup(clean_html(with_runs(style, {"KD": ["kd-s0-1", "kd-s1-2"]}).to_html()), "html.parser")
    titles = {cell.get_text(): cell.get("title") for cell in page.find_all("td")}
    assert titles["35.1"] == "kd-s0-1, kd-s1-2" and not titles["30.0"] and not titles["KD"]
    assert not any(titles[text] for text in titles if text.startswith(("70", "71"))) and not page.select(".pd-t")
