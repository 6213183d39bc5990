"""What was found: each rule on made-up results, and the numbers in its sentence."""

from __future__ import annotations

import math

import pytest

from segkd.study.claims import findings, measures
from segkd.study.claims.floor import Floor
from segkd.study.claims.parts import Cell
from segkd.study.claims.tests import baseline, cwd, fakd, hwd, kd, label_teacher, lad, rdd, teacher
from segkd.study.numbers.statistics import Spread, points, smallest_effect, t_estimate
from segkd.study.numbers.study import open_study
from segkd.study.tables.papers import comparison_rows

BASE = [30.0, 31.0, 29.0]


@pytest.fixture
def study(fake):
    """Three seeds without a run, but for a baseline and a teacher seven points above it."""
    found = open_study("all", seeds=3)
    fake(found, (baseline, BASE), (teacher, [37.0, 38.1, 35.9]))
    return found


def over(gains, base=BASE):
    return [value + gain for value, gain in zip(base, gains)]


@pytest.mark.parametrize("gains, said", [
    ([2.0, 2.1, 1.9], "**HWD lies above CWD**: +2.0 (+1.8 to +2.2, 3 seeds). 3 seeds: a headline needs 5."),
    ([-2.0, -2.1, -1.9], "**HWD lies below CWD**: −2.0 (−2.2 to −1.8, 3 seeds). 3 seeds: a headline needs 5."),
    ([1.0, -1.0, 0.0], "**HWD and CWD cannot be told apart**: 0.0 (−2.5 to +2.5, 3 seeds). An effect of 3.3 points"),
    ([1.0], "**One seed, no verdict**: HWD less CWD is +1.0 (1 seed)."),
])  # fmt: skip
def test_a_method_against_the_row_that_lacks_its_idea(study, fake, gains, said):
    fake(study, (cwd, BASE), (hwd, over(gains)))
    assert findings.of_paper(study, "hwd").startswith(said)


def test_the_seeds_for_one_point_are_those_at_which_it_would_be_seen():
    found = findings._seeds(t_estimate([1.0, -1.0, 0.0]))
    assert found.startswith("; for one point it takes about 10 seeds") and smallest_effect(1.0, 10) <= 1 < smallest_effect(1.0, 9)
    assert "more than 100" in findings._seeds(t_estimate([10.0, -10.0, 0.0])) and findings._seeds(t_estimate([1.0, -1.0])) == ""


def test_what_rounding_may_make_is_no_finding(study, fake, monkeypatch):
    fake(study, (cwd, BASE), (hwd, over([2.0, 2.1, 1.9])))
    wide = Spread(3.0, 2.0, 5.0, 6, 9)
    monkeypatch.setattr(findings, "study_floors", lambda study: dict.fromkeys(("student", "teacher"), Floor(wide, wide)))
    assert findings.of_paper(study, "hwd").startswith("**HWD and CWD cannot be told apart**: +2.0")
    assert "None of 2 methods" in findings.whole(study)[0]
    monkeypatch.setattr(findings, "study_floors", lambda study: {})
    assert findings.of_paper(study, "hwd").endswith("The rounding floor is not measured. 3 seeds: a headline needs 5.")


@pytest.mark.parametrize("values, shows", [
    ((0.31, 0.3, 0.29), "shows here (XOR pixels: teacher sure − student sure, at the end: +0.30 (+0.28 to +0.32), n = 3)."),
    ((-0.31, -0.3, -0.29), "does not show here (XOR"), ((0.3, -0.3, 0.1), "may or may not show here (XOR"), ((-0.3, 0.3, -0.1), "may or may not show here (XOR"),
])  # fmt: skip
def test_whether_what_a_method_rests_on_shows_in_its_networks(study, fake, monkeypatch, values, shows):
    fake(study, (kd, BASE), (rdd, BASE), (cwd, BASE), (fakd, BASE))
    monkeypatch.setitem(measures.SINGLE, "xor_balance", (measures.PLAIN, lambda run: values[run.config.seed]))
    monkeypatch.setitem(measures.SINGLE, "activation", (measures.RATIO, lambda run: 2 + run.config.seed / 10 if "fakd" in run.id else 1.0))
    assert f"What it rests on {shows}" in findings.of_paper(study, "rdd")
    assert "What it rests on shows here (FAKD / CWD, activation on rare classes: ×2.1 (" in findings.of_paper(study, "fakd")
    assert "rests on" not in findings.of_paper(study, "lad")


def test_an_open_premise_is_named(study, fake):
    fake(study, (cwd, BASE), (hwd, BASE), (teacher, over([3.0, -1.0, 1.0])))
    assert "Open premise: plain teacher − student: +1.0" in findings.of_paper(study, "hwd")


def test_without_its_premise_a_result_is_no_test(study, fake, uses):
    fake(study, (cwd, BASE), (lad, BASE), (label_teacher, over([-1.0, -0.96, -1.04])))
    found = findings.of_paper(study, "lad")
    assert found.startswith("**Premise not met**, so LAD less CWD, 0.0 (3 seeds), is no test of LAD.")
    assert "The label-assisted teacher − student: −1.0 (−1.1 to −0.9), n = 3. Nothing to teach" in found
    fake(study, (teacher, over([-3.0] * 3)), (hwd, BASE))
    assert findings.of_paper(study, "hwd").startswith("**Premise not met**, so HWD less CWD")


def test_what_was_not_trained_is_said_with_the_command(study):
    found = findings.of_paper(study, "fakd")
    assert found.startswith("Not run: not trained: FAKD, CWD. `make reproduce PROFILE=quick DATASET=scenes TABLES=all/main SEEDS=")


def test_all_methods_together(study, fake):
    rows = {label: Cell(row) for label, row in comparison_rows("main", "rivals", "controls").items()}
    assert findings.whole(study) == []
    known = {"CWD": [2.0, 2.1, 1.9], "KD": [-1.0, -1.1, -0.9], "RDD": [1.0, -1.0, 0.0], "HWD": [0.5], findings.LONGER: [1.0, 1.1, 0.9]}
    fake(study, *((rows[label], over(gains)) for label, gains in known.items()), (rows[findings.SHUFFLED], [10.0, 10.1]))
    gains, time, ignorance = findings.whole(study)
    assert gains.startswith("**1 of 3 methods with several seeds lies above the baseline** with the whole interval: CWD +2.0 (+1.8 to +2.2, 3 seeds). Below it: KD −1.0")
    assert "One seed, so no verdict: HWD +0.5 (1 seed). Not told apart from it: RDD. 3 seeds: a headline needs 5. Intervals" in gains
    assert "gains +1.0 (+0.8 to +1.2, 3 seeds); CWD less that longer baseline is +1.0" in time
    assert findings.SHUFFLED in ignorance and findings.UNTRAINED not in ignorance and "2 seeds" in ignorance


def test_points_are_printed_in_one_way():
    assert [points(v) for v in (-0.04, 0.0, 1.25, -3.0)] == ["0.0", "0.0", "+1.2", "−3.0"]
    assert math.isnan(t_estimate([1.0]).low) and findings.said(t_estimate([1.0])) == "+1.0 (1 seed)"
