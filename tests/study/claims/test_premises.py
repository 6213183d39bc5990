"""Premises: what they are by definition, what claims make of them and of the rounding floor, and the table of a page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segkd.registry import UserError
from segkd.runs import find
from segkd.study.claims import mechanisms, premises, verdicts as claims, words as claim_pages
from segkd.study.claims.parts import TIME
from segkd.study.claims.tests import TESTS, baseline, cwd, hwd, hwd_rivals, label_teacher, lad, lad_rivals, teacher
from segkd.study.numbers.statistics import t_estimate
from segkd.study.numbers.study import open_study
from segkd.study.tables.papers import comparison_rows

FIVE = np.array([0.0, 0.4, -0.3, 0.2, -0.1])


@pytest.fixture
def study(fake, uses, monkeypatch):
    """Five seeds without a run; a label that is worth 5 points to its teacher; networks that are not there."""

    def gone(run):
        raise UserError("its network is not here")

    monkeypatch.setattr(mechanisms, "plain_image_drop", gone)
    return open_study("all", seeds=5)


def verdict(study, name):
    return claims.judge(study, [name])[0]


@pytest.mark.parametrize("values, limit, state", [
    ([1.0, 1.2, 0.9], 0.0, "met"), ([1.0, 1.2, 0.9], 1.0, "open"), ([1.0, -0.9, 0.9], 0.0, "open"), ([-0.1, 3.0, -3.0], 0.0, "not met"),
    ([-1.0, -1.1, -0.9], 0.0, "not met"), ([2.0], 0.0, "open"), ([-2.0], 0.0, "not met"), ([], 0.0, "open"),
])  # fmt: skip
def test_a_premise_is_met_by_its_interval_and_not_met_by_its_mean(values, limit, state):
    assert premises.state_of(t_estimate(values), limit) == state


def test_every_claim_names_premises_that_there_are_and_time_needs_none():
    for name, test in TESTS.items():
        assert set(test.premises or ()) <= {*premises.PREMISES, premises.CLASSES}, name
        timed = all(c.measure == TIME for c in test.comparisons)
        assert bool(test.premises) == (not timed and name not in ("lad-03", "lad-17", "rdd-16")), name
    assert TESTS["lad-02"].premises == ("label_teacher", "label_used") and TESTS["rdd-12"].premises == ("teacher",)
    joint = {name for name, test in TESTS.items() for c in test.comparisons if c.measure in ("hard_minus_easy", "repaired", "share_better")}
    assert joint and all("classes" in TESTS[name].premises for name in joint)


@pytest.mark.parametrize("gap, verdict_is, reason", [
    (3.0, "contradicted", ""), (-1.0, "premise not met", "label-assisted teacher − student: −1."),
    (0.1, "contradicted", "open premise: label-assisted teacher − student: +0.1 (−"),
])  # fmt: skip
def test_a_claim_says_nothing_where_its_teacher_is_no_better(study, fake, gap, verdict_is, reason):
    fake(study, (baseline, 30 + FIVE), (label_teacher, 30 + gap + FIVE[::-1]), (cwd, 33 + FIVE), (lad, 30 + FIVE[::-1]))
    found = verdict(study, "lad-02")
    assert found.verdict == verdict_is and reason in found.reason
    assert np.isnan(found.p) == (verdict_is == "premise not met") and found.weakest.estimate.mean == pytest.approx(-3)


def test_a_label_that_is_not_used_is_a_premise_not_met(study, fake, uses):
    uses(label=0.3)
    fake(study, (baseline, 30 + FIVE), (label_teacher, 33 + FIVE), (cwd, 33 + FIVE), (lad, 30 + FIVE[::-1]))
    found = verdict(study, "lad-02")
    assert found.verdict == "premise not met" and "lost without the label: +0.3 (" in found.reason
    line = claims.frame([found]).iloc[0]
    assert line["effect"] == pytest.approx(-3) and line["smallest"] > 0
    assert "▽ premise not met" in claim_pages.claims_table(claims.frame([found])).to_html()


def with_floor(study, fake, steps):
    """Copies of baseline, CWD and teacher on the first seed, ``steps`` points away from the run as it is."""
    for row in comparison_rows("floor").values():
        config = study.config(row, 0)
        plain = find(replace(config, rounding=0, teacher=config.teacher and replace(config.teacher, rounding=0)))
        if row.level["rounding"] and plain.done:
            fake(study, (config, [100 * plain.result["miou"] + steps[row.level["rounding"] - 1]]))


@pytest.mark.parametrize("steps, expected", [((0.1, -0.1, 0.2), "supported"), ((3.0, -3.0, 1.0), "inconclusive")])
def test_an_effect_inside_the_rounding_floor_is_inconclusive(study, fake, steps, expected):
    fake(study, (baseline, 30 + FIVE), (teacher, 36 + FIVE), (cwd, 31 + FIVE), (hwd, 32 + FIVE + [0.01, 0.02, 0.0, 0.01, 0.03]))
    fake(study, *((rival, 31 + FIVE[::-1]) for rival in hwd_rivals.values()))
    with_floor(study, fake, steps)
    found = verdict(study, "hwd-01")
    assert found.verdict == expected and found.p_holm < 0.05
    assert ("inside the rounding floor: rounding alone moves this by ±" in found.reason) == (expected == "inconclusive")
    sd = np.std([0, *steps], ddof=1)  # the same for both rows: six degrees of freedom
    assert found.floor == pytest.approx(2.44691 * sd * np.sqrt(2 / 5), rel=1e-4)


def test_one_comparison_counts_once(study, fake):
    fake(study, (baseline, 30 + FIVE), (label_teacher, 36 + FIVE[::-1]), (lad, 30 + FIVE), *((rival, 33 + FIVE) for rival in lad_rivals))
    fake(study, (cwd, 34 + FIVE))  # is one of the rivals: decides lad-02 and lad-06
    found = claims.frame(claims.judge(study, ["lad-02", "lad-06"]))
    assert list(found["verdict"]) == ["contradicted"] * 2 and list(found["same_as"]) == ["", "lad-02"]
    assert claim_pages.headline(found)["contradicted"] == "1"
    assert "1 contradicted" in claim_pages.sceptic(found, "quick", "scenes")[0] and "1 more is decided" in claim_pages.sceptic(found, "quick", "scenes")[0]
    assert list(claim_pages.drawn(found)["label"]) == ["lad-02, lad-06  LAD − CWD"]
    assert claim_pages.verdict_counts(found).set_index("paper").loc["all", "counted above"] == 1


def test_the_table_says_what_is_measured_and_what_is_not(study, fake):
    fake(study, (baseline, 30 + FIVE), iou=(0.6, 0.004))
    fake(study, (teacher, 36 + FIVE[::-1]))
    for paper in ("all", "rdd"):  # one table, on whichever page
        found = premises.premises(open_study(paper, seeds=5)).set_index("what")
        assert found.loc["plain teacher − student", ["value", "n", "state"]].tolist() == ["+6.0 (+5.8 to +6.2)", 5, "met"]
        assert found.loc["label-assisted teacher − student", "value"] == "not trained: teacher (label-assisted)"
        assert found.loc["plain teacher, lost without the image", ["value", "state"]].tolist() == ["not measured here", "open"]
        assert found.loc["classes at zero in the baseline", "value"] == "1 of 2: Pole"
        assert found.loc["rounding alone, spread of a score", ["value", "state"]].tolist() == ["below the digits shown", ""]  # float64
        assert found.loc["seeds, spread of the baseline", "value"].startswith("±0.3 (0.2 to 0.8; 5 runs)")
    in_float32 = premises.premises(open_study("all", "smoke", seeds=5)).set_index("what").loc["rounding alone, spread of a score"]
    assert in_float32["value"] == "not measured" and "TABLES=all/floor" in in_float32["follows"]
    with_floor(study, fake, (0.5, -0.5, 0.0))
    line = premises.premises(study).set_index("what").loc["rounding alone, spread of a score"]
    assert line["value"].startswith("±0.4 (0.2 to 1.5; 4 runs)") and line["state"] == ""
    assert "●\u00a0met" in premises.table(study).to_html()
