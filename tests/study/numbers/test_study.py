"""Studies: rows to runs, reported values, statistics, jobs, the command line's answers to bad input."""

import dataclasses
import math
import types

import pandas as pd
import pytest

from segkd.cli import main
from segkd.config import ROOT
from segkd.losses.method import create_method
from segkd.registry import UserError
from segkd.study.execute import progress as progress_module
from segkd.study.execute.progress import Progress
from segkd.study.numbers.results import paired
from segkd.study.numbers.study import open_study
from segkd.study.numbers.summaries import summary
from segkd.study.tables.papers import BASELINE, COMPARISON, PAPERS, paper_tables
from segkd.study.tables.profiles import PROFILES, get_profile, seed_list
from segkd.study.tables.reported import reported

pytestmark = pytest.mark.usefixtures("runs")


@pytest.mark.parametrize("paper", [*PAPERS, COMPARISON])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_row_becomes_a_run(paper, profile):
    study = open_study(paper, profile, "camvid")
    for config in study.configs():
        assert config.data.split == "test" and config.seed in study.seeds
        if "lad" in config.method.split("+") and config.method != "lad":
            assert config.teacher.method == "lad" and config.teacher.network.extra_channels == 1
            assert config.teacher.hyper == {k: v for k, v in config.hyper.items() if k == "lad"}
        elif config.method not in ("baseline", "lad"):
            assert config.teacher.method == "baseline" and config.teacher.network == study.profile.teacher


def test_equal_settings_are_one_run():
    def run(paper, table, label):
        study = open_study(paper)
        return study.config(next(row for row in study.rows(table) if row.label == label), 0)

    assert run("lad", "noise", "student, alpha 0.01, class noise on") == run("lad", "main", "LAD") and run("lad", "main", "LAD").hyper == {}
    assert run("fakd", "lambda", "lambda 1") == run("fakd", "main", "FAKD") and run("fakd", "main", "CWD") == run("lad", "main", "CWD")


def test_quick_trains_few_tables_and_gives_side_tables_one_seed_unless_seeds_are_asked_for():
    quick, asked = open_study("all", tables="controls"), open_study("all", tables="controls", seeds="0,1")
    assert {c.seed for c in quick.configs()} == {0} and {c.seed for c in asked.configs()} == {0, 1}
    assert "controls: 0 alone" in quick.facts()["seeds"] and "alone" not in asked.facts()["seeds"]
    assert {c.seed for c in open_study("all", tables="main").configs()} == {0, 1}
    assert list(open_study("all").tables) == ["main", "controls"] and "rivals" in open_study("all", "small").tables
    assert list(open_study("all", seeds="5,6,7").tables) == ["main", "controls"]
    assert {c.schedule.precision for c in open_study("lad").configs()} == {"float64"}


def test_controls_change_the_training_and_not_the_method():
    study = open_study("all")
    rows = {row.label: row for row in study.rows("controls")}
    plain, cwd = study.config(rows["baseline"], 0), study.config(rows["CWD"], 0)
    longer = study.config(rows["baseline, 1.5 times as long"], 0)
    assert longer == dataclasses.replace(plain, schedule=dataclasses.replace(plain.schedule, steps=plain.schedule.steps * 3 // 2))
    untrained = study.config(rows["CWD, untrained teacher"], 0)
    assert untrained.teacher.schedule.steps == 0 and dataclasses.replace(untrained, teacher=cwd.teacher) == cwd
    shuffled = study.config(rows["CWD, teacher with shuffled classes"], 0)
    assert shuffled == dataclasses.replace(cwd, teacher_classes="shuffled") and shuffled.id != cwd.id


@pytest.mark.parametrize("paper", PAPERS)
def test_profiles_thin_the_axes_and_never_change_a_hyper_parameter(paper):
    full = {r.label: (r.spec, r.hyper) for t in paper_tables(paper, None).values() for r in t.rows}
    for levels in (1, 3):
        for table in paper_tables(paper, levels).values():
            assert all(full[r.label] == (r.spec, r.hyper) for r in table.rows)
            for axis in table.axes:
                assert len({r.level[axis] for r in table.rows if axis in r.level} - {0.0 if axis == "lambda" else "TFE"}) <= 3


@pytest.mark.parametrize("paper, table, values", [
    ("lad", "main", {"LAD": 77.7, "baseline": 74.2, "teacher (plain, larger)": 78.1, "teacher (label-assisted)": 79.8}),
    ("lad", "noise", {"teacher, alpha 0, class noise off": 90.0, "student, alpha 1, class noise on": 70.5}),
    ("fakd", "main", {"FAKD": 35.30, "baseline": 29.42, "teacher (plain, larger)": 44.39}), ("fakd", "distance", {"FAKD on PD": 32.84}),
    ("fakd", "lambda", {"lambda 2.5": 31.95}), ("hwd", "main", {"HWD": 33.85}), ("rdd", "main", {"KD": 74.82, "RDD": 77.18}),
    ("rdd", "stages", {"TFE alone": 74.43, "TFE then TSE, p = 20 %": 76.77}), ("rdd", "mode", {"AND": 70.01}),
])  # fmt: skip
def test_reported_values_are_the_papers(paper, table, values):
    found = paper_tables(paper, None)[table]
    assert {row.label: reported(found, row) for row in found.rows if row.label in values} == values


def test_verdicts_of_pairs():
    ours, base = pd.Series([3.0, 4.0, 8.0], [0, 1, 2]), pd.Series([1.0, 3.0, 4.0, 9.0], [0, 1, 2, 3])
    assert (paired(ours, base).n, paired(ours, base).mean) == (3, pytest.approx(7 / 3))
    found = [paired(one, base).verdict for one in (ours, ours + 100, ours - 100, ours[:1], ours[:0])]
    assert found == ["inconclusive", "higher", "lower", "one run", "not run"]


def test_summary_pairs_by_seed_and_keeps_rows_that_were_not_run():
    table = paper_tables("hwd", None)["main"]
    lines = [("baseline", 0, 0.50), ("baseline", 1, 0.60), ("baseline", 2, 0.9), ("HWD", 1, 0.63), ("HWD", 0, 0.52), ("HWD", 7, 0.1)]
    results = pd.DataFrame([{"row": r, "seed": s, "metric": "miou", "value": v} for r, s, v in lines])
    found = summary(table, results, "baseline").set_index("row")
    assert found.loc["HWD", "gain"] == pytest.approx(2.5) and found.loc["HWD", "paper gain (computed)"] == pytest.approx(3.99)
    hwd = found.loc["HWD"]  # on the seeds that both have: the mean less the reference is the gain
    assert hwd["runs"] == 2 and hwd["mIoU %"] == pytest.approx(57.5) and hwd["reference %"] == pytest.approx(55)
    assert found.loc["baseline", "runs"] == 3 and found.loc["CWD", "runs"] == 0 and found.loc["CWD", "verdict"] == "not run"
    assert math.isnan(found.loc["baseline", "gain"])


def test_seed_lists():
    quick, known = get_profile("quick"), {None: [0, 1], "3": [0, 1, 2], "4,7": [4, 7], "4,": [4]}
    assert {text: seed_list(text, quick) for text in known} == known
    assert seed_list([4, 7], quick) == [4, 7] and seed_list([4], quick) == [4]
    for bad in ("x", "0", "-1", "1,x", ","):
        with pytest.raises(UserError, match="SEEDS"):
            seed_list(bad, quick)


@pytest.mark.parametrize("arguments, words", [
    ("reproduce --profile quik", "unknown PROFILE 'quik': did you mean 'quick'"), ("reproduce --dataset scene", "'scene': did you mean 'scenes'"),
    ("reproduce --methods baseline,hwdd", "unknown method 'hwdd': did you mean 'hwd'"), ("reproduce --tables mian", "'mian': did you mean 'main'"),
    ("reproduce --seeds two", "SEEDS: 'two'"), ("reproduce --prfile quick", "unrecognized arguments"),
    ("study ladd", "unknown paper 'ladd': did you mean 'lad'"), ("study lad --dry-run --executor rray", "unknown executor 'rray': did you mean 'ray'"),
    ("study lad --dry-run --devices cdua", "'cdua' is not a device"), ("train nowhere.json", "nowhere.json: is not there; give a run's config"),
    ("data camvit", "unknown data set 'camvit': did you mean 'camvid'"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    try:
        code = main(arguments.split())
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr().err.strip()
    assert code == 2 and words in printed and len(printed.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif((ROOT / "data" / "raw" / "camvid").exists(), reason="CamVid lies in data/raw")
def test_a_missing_data_set_says_where_it_was_looked_for(monkeypatch, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--profile", "smoke", "--dataset", "camvid"]) == 2
    printed = capsys.readouterr().err
    assert "camvid" in printed and str(tmp_path / "empty") in printed and not (tmp_path / "runs").exists()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_plain_lines_without_a_terminal(clock, capsys):
    progress, row = Progress(10, 1, terminal=False), {"step": 1, "loss": 1.25, "lr": 0.0123}
    clock.seconds = 19  # too soon for a line
    progress.step("some-run", row, 10, work=1, images=80)
    clock.seconds = 40
    progress.step("some-run", row | {"step": 5}, 10, work=4, images=320)
    progress.finished("some-run", 0.5)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "runs 0/1 | some-run step 5/10 loss 1.250 lr 0.012 | 10 images/s | 0:40 left"
    assert printed[1:] == ["done 1/1: some-run  mIoU 0.500"]


def test_a_bar_with_the_same_words_on_a_terminal(clock, capsys):
    progress = Progress(7200, 2, terminal=True)
    clock.seconds = 1
    progress.step("some-run", {"step": 1, "loss": 1.25, "lr": 0.0123}, 10, images=40)
    assert progress.left() == "1:59:59"
    progress.close()
    printed = capsys.readouterr()
    assert "runs 0/2 | some-run step 1/10 loss 1.250 lr 0.012 | 40 images/s" in printed.err and not printed.out


def test_a_tuned_schedule_is_that_of_every_row_but_the_tuning_table(monkeypatch):
    base = PROFILES["smoke"].schedule
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(PROFILES["smoke"], tuned={"scenes": {"lr": 0.5, "weight_decay": 0.25}}))
    study = open_study("all", "smoke", "scenes")
    assert "tuning" not in study.tables and "tuning" in study.all_tables  # trained only if TABLES names it
    for row in (*study.rows("main"), *study.rows("controls")):
        assert (study.config(row, 0).schedule.lr, study.config(row, 0).schedule.weight_decay) == (0.5, 0.25)
    found = {row.label: study.config(row, 0).schedule for row in open_study("all", "smoke", tables="tuning").rows("tuning")}
    assert found["baseline, untuned"] == base
    assert found["learning rate x 2, weight decay x 100"] == dataclasses.replace(base, lr=2 * base.lr, weight_decay=100 * base.weight_decay)
    assert "lr 0.5" in study.facts()["schedule"]
    assert open_study("all", "smoke", "camvid").config(BASELINE, 0).schedule == base


def test_rows_as_their_code_are_the_official_variant():
    study = open_study("all", "quick", "scenes", seeds="1", tables="codes")
    rows = {row.label: row for row in study.rows("codes")}
    for label, spec in (("HWD", "hwd"), ("RDD", "kd+rdd"), ("LAD", "lad+cwd")):
        config = study.config(rows[f"{label}, as its code"], 0)
        official = create_method(spec, variant="official").hyper()
        assert create_method(config.method, **config.hyper).hyper() == official != create_method(spec).hyper()
        assert study.config(rows[label], 0).id in {study.config(row, 0).id for row in study.rows("main")}
    assert study.config(rows["LAD, as its code"], 0).teacher.hyper["lad"]["consistency"] == 5  # its teacher is the code's too
    assert "codes" not in open_study("all", "quick", "scenes").tables  # trained on request
