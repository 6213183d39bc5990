"""Claims: every one has a test that can be run; verdicts from made-up results; reasons; sentences; combinations."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from segkd.losses.method import create_method
from segkd.losses.rows import ROWS
from segkd.registry import UserError
from segkd.runs import find
from segkd.study.claims import combinations, verdicts as claims, words as claim_pages
from segkd.study.claims.checks import CHECKS
from segkd.study.claims.measures import JOINT, SINGLE, unit_of
from segkd.study.claims.parts import NARROW, TIME, config_of, on
from segkd.study.claims.tests import TESTS, baseline, cwd, fakd, fakd_rivals, hwd, hwd_rivals, label_teacher, lad, lad_from_wide, rdd, teacher, wide_from_narrow
from segkd.study.numbers import step_times
from segkd.study.numbers.statistics import resample_weights
from segkd.study.numbers.study import open_study
from segkd.study.tables.papers import paper_tables
from segkd.train.check import check_config

BASE = np.array([30.0, 30.5, 31, 30.2, 30.9])
APART = np.array([30.0, 34, 31, 36, 33])
NOISE = np.array([0.1, -0.2, 0.3, 0.0, -0.1])
pytestmark = pytest.mark.usefixtures("fake")


def outcome(study, name, ids=None):
    return next(o for o in claims.judge(study, ids or [name]) if o.claim["id"] == name)


def test_every_claim_has_a_test_and_every_test_a_claim():
    assert list(claims.claims()["id"]) == list(dict.fromkeys(claims.claims()["id"])) and set(claims.claims()["id"]) == set(TESTS)
    for name, test in TESTS.items():
        assert sum(map(bool, (test.comparisons, test.check, test.why_not))) == 1, name
        assert not test.check or test.check in CHECKS
        for c in test.comparisons:
            assert (c.measure in JOINT) if c.joint else (c.measure in (TIME, *SINGLE) and len(c.weights) == len(c.cells)), name
            assert unit_of(c.measure) in ("points", "ratio", "")


@pytest.mark.parametrize("profile", ["smoke", "quick", "scratch", "small", "gpu"])
def test_every_cell_is_a_run_that_could_be_trained(profile):
    study = open_study("all", profile, "camvid")
    for test in TESTS.values():
        for cell in test.cells:
            config = config_of(study, cell, 0)
            check_config(config)
            assert config.data.split == "test" and (cell.weights or config.network.weights == study.profile.student.weights)


def test_cells_of_the_tables_are_the_runs_of_the_tables():
    study = open_study("all")
    rows = {row.label: study.config(row, 1) for row in study.rows("main")}
    for cell, label in ((baseline, "baseline"), (cwd, "CWD"), (fakd, "FAKD"), (hwd, "HWD"), (rdd, "RDD"), (lad, "LAD")):
        assert config_of(study, cell, 1) == rows[label]
    assert config_of(study, on(lad, student=NARROW), 1) == rows["LAD"]


def test_label_assisted_teachers_of_other_sizes():
    study = open_study("all")
    narrow, wide = study.profile.student, study.profile.teacher
    for cell, student, teacher in ((lad, narrow, narrow), (lad_from_wide, narrow, wide), (wide_from_narrow, wide, narrow)):
        config = config_of(study, cell, 0)
        assert (config.network.width, config.network.extra_channels) == (student.width, 0)
        assert (config.teacher.network.width, config.teacher.network.extra_channels) == (teacher.width, 1)


@pytest.mark.parametrize("gain, verdict", [(2.0, "supported"), (-2.0, "contradicted"), (0.02, "inconclusive")])
def test_verdict_of_a_paired_difference(gain, verdict, fake, uses):
    study, better = open_study("all", seeds=5), 38 + np.arange(5) / 4 + 0.1 * (np.arange(5) % 2)
    fake(study, (baseline, np.linspace(30, 31, 5)), (teacher, better), (label_teacher, better))
    fake(study, (cwd, APART), (lad, APART + gain + NOISE))
    found = outcome(study, "lad-02")
    assert found.verdict == verdict and found.reason == "", "in float64 rounding is no matter"
    e, expected = found.weakest.estimate, stats.ttest_rel(APART + gain + NOISE, APART)
    assert e.n == 5 and e.mean == pytest.approx(gain + NOISE.mean()) and (e.low, e.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)
    line = claims.frame([found]).iloc[0]
    assert set(line["runs"].split()) == {find(config_of(study, c, s)).id for c in (cwd, lad) for s in range(5)}


def test_an_ordering_needs_every_rival_and_one_reversal_contradicts_it(fake):
    study = open_study("all", seeds=5)
    fake(study, (fakd, BASE), *((rival, BASE - 2 + 0.1 * np.roll([1, -1, 0, 0, 0.5], i)) for i, rival in enumerate((*fakd_rivals, cwd, baseline))))
    assert outcome(study, "fakd-01").verdict == "supported"
    for more, verdict in (([0.5, -0.6, 0.1, 0.3, -0.4], "inconclusive"), ([2, 2.1, 1.9, 2.2, 2], "contradicted")):
        fake(study, (cwd, BASE + more))
        found = outcome(study, "fakd-01")
        assert found.verdict == verdict and found.weakest.comparison.cells[1] == cwd
    line = claims.frame([found]).iloc[0]
    assert (line["agree"], line["comparisons"]) == (4, 5) and line["effect"] == pytest.approx(-2.04)


def test_holm_over_all_claims_takes_a_verdict_back(fake):
    study = open_study("all", seeds=5)
    fake(study, (cwd, BASE), (lad, BASE + [1.9, 0.1, 1.0, 0.4, 1.4]))  # p is near 0.04
    alone = outcome(study, "lad-02")
    assert alone.verdict == "supported" and alone.p == alone.p_holm
    fake(study, (baseline, BASE), (hwd_rivals["mgd"], BASE + [1.5, 0.4, -1.0, 1.4, 0.4]), (hwd, BASE))
    both = outcome(study, "lad-02", ["lad-02", "hwd-04"])
    assert both.p == alone.p and both.p_holm == pytest.approx(2 * both.p) and both.verdict == "inconclusive"


def test_what_is_missing_is_named_and_one_seed_has_no_interval(fake):
    study = open_study("all", seeds=2)
    assert outcome(study, "lad-02").verdict == "not run" and "not trained: LAD, CWD" in outcome(study, "lad-02").reason
    fake(study, (cwd, [30.0]), (lad, [31.0]))
    found = outcome(study, "lad-02")
    assert found.verdict == "inconclusive" and "one seed" in found.reason and math.isnan(found.p)
    assert "open premise: label-assisted teacher − student: not trained: teacher (label-assisted), baseline" in found.reason
    fake(study, (cwd, [30.0, 31.0]), (lad, [31.0, 32.5]))
    assert outcome(study, "lad-02").reason.endswith("2 seeds: a headline needs 5")
    partly = outcome(study, "lad-10")
    assert partly.verdict == "not run" and partly.reason.startswith("1 of 2 comparisons measured") and len(partly.parts) == 2


@pytest.mark.parametrize("name, dataset, reason", [
    ("fakd-02", "scenes", "is about pascal_context"), ("lad-01", "scenes", "random weights"), ("fakd-06", "scenes", "full width"),
    ("lad-14", "scenes", "DINOv2"), ("rdd-07", "scenes", "rdd-01"), ("rdd-07", "camvid", ""), ("lad-06", "scenes", ""),
])  # fmt: skip
def test_what_cannot_be_tested_says_why(name, dataset, reason):
    found = claims.cannot(open_study("all", "quick", dataset), claims.test_of(name))
    assert reason in found and bool(found) == bool(reason)


def test_training_for_claims_refuses_what_it_cannot_test():
    study = open_study("all")
    with pytest.raises(UserError, match="lad-14 cannot be tested.*DINOv2"):
        claims.train(study, "lad-02, lad-14")
    with pytest.raises(UserError, match="lad-02"):
        claims.train(study, "lad-2")


def test_runs_that_claims_need_are_listed_once_with_their_teachers(fake):
    study = open_study("all", seeds=2)
    wanted = claims.missing_configs(study, ["lad-02"])
    assert [c.method for c in wanted].count("lad") == 2 and len(wanted) == len({c.id for c in wanted}) == 8
    fake(study, (cwd, [30.0, 31.0]))
    assert len(claims.missing_configs(study, ["lad-02"])) == 6
    assert len({c.id for c in claims.missing_configs(study)}) > 50


def test_time_is_of_steps_measured_by_themselves(tmp_path, monkeypatch):
    """Paired by the rounds of the benchmark, with a margin; no run is asked, and none is trained for it."""
    study, table = open_study("all", seeds=3), tmp_path / "methods.csv"
    kinds = [step_times.digest(config_of(study, cell, 0)) for cell in (cwd, hwd)]
    monkeypatch.setattr(step_times, "ALONE", table)
    assert outcome(study, "hwd-14").verdict == "not run" and "benchmarks/methods.py --profile quick" in outcome(study, "hwd-14").reason
    assert claims.wanted_configs(study, ["hwd-14"]) == []
    for slower, verdict in ((1.05, "supported"), (1.25, "contradicted")):
        own = [100.0, 104.0, 99.0, 120.0]
        other = [slower * ms * more for ms, more in zip(own, (1.001, 0.999, 1.0, 1.002))]
        table.write_text("kind,rounds\n" + "".join(f"{kind},{' '.join(map(str, ms))}\n" for kind, ms in zip(kinds, (own, other))))
        step_times.rounds.cache_clear()
        line = claims.frame([outcome(study, "hwd-14")]).iloc[0]
        assert line["verdict"] == verdict and line["unit"] == "ratio" and line["n"] == 4
        assert line["effect"] == pytest.approx(1 / slower, rel=1e-2) and line["limit"] == pytest.approx(1 / 1.1)
        gaps = np.log(own) - np.log(other)
        assert (line["low"], line["high"]) == pytest.approx(np.exp(stats.t.interval(0.95, 3, gaps.mean(), stats.sem(gaps))))
        assert "seed" not in line["reason"]


def random_counts(seed, images=9):
    draws = np.random.default_rng(seed)
    labelled = draws.integers(0, 60, (images, 4))
    hit = (labelled * draws.random((images, 4))).astype(int)
    return np.stack([hit, labelled, hit + draws.integers(0, 20, (images, 4))], 1)


def test_interval_over_images_draws_the_same_images_for_all_runs(fake):
    study = open_study("all", seeds=2)
    plain, assisted = ({seed: random_counts([seed, i]) for seed in (0, 1)} for i in (0, 1))
    fake(study, (cwd, [30.0, 31.0]), counts=plain)
    fake(study, (lad, [30.0, 31.0]), counts=assisted)
    found = outcome(study, "lad-02").weakest.images

    def miou(of, weights):
        hit, labelled, guessed = np.einsum("n,nkc->kc", weights, of)
        return np.nanmean(hit / (labelled + guessed - hit))

    drawn = np.concatenate([block for block in resample_weights(9)])
    gaps = [np.mean([miou(assisted[s], w) - miou(plain[s], w) for s in (0, 1)]) for w in drawn]
    assert found == pytest.approx(tuple(100 * np.quantile(gaps, [0.025, 0.975])), abs=1e-9)
    (find(config_of(study, cwd, 1)).path / "images.npz").unlink()
    assert outcome(study, "lad-02").weakest.images is None


def test_a_check_that_fails_contradicts(monkeypatch):
    monkeypatch.setitem(CHECKS, "holistic_weights", lambda: (False, "sum 3"))
    found = outcome(open_study("all"), "hwd-13")
    assert found.verdict == "contradicted" and "sum 3" in found.reason


@pytest.mark.parametrize("name", CHECKS)
def test_checks_hold_on_the_released_losses(name):
    holds, text = CHECKS[name]()
    assert holds and any(c.isdigit() for c in text) or "yes" in text and "NO" not in text


def test_sentences_and_coverage_count_every_claim_once(tmp_path, fake):
    study = open_study("all", seeds=5)
    fake(study, (cwd, APART), (lad, APART + 2 + NOISE))
    found = claims.frame(claims.judge(study))
    table = claim_pages.verdict_counts(found).set_index("paper")
    assert table.loc["all", "claims"] == len(found) == 70 == table.drop(index="all")["claims"].sum()
    rest = ["counted above", "premise not met", "not run", "cannot be tested here"]
    assert (table["claims"] == table[["tested", *rest]].sum(axis=1)).all()
    counted, came_out, unsaid = claim_pages.sceptic(found, "quick", "scenes")
    assert f"{table.loc['all', 'tested']} were tested with quick on scenes" in counted and "4 of them by counting" in counted
    assert "lad-02 is supported (LAD − CWD: +2.0 (+" in came_out and "n = 5" in came_out
    timed = found.astype({"unit": object}).copy()
    timed.loc[timed["id"] == "hwd-14", ["verdict", "p", "p_holm", "unit", "effect"]] = ["supported", 1e-9, 1e-9, "ratio", 0.99]
    named = claim_pages.sceptic(timed, "quick", "scenes")[1]
    assert named.index("lad-02") < named.index("hwd-14")  # a surer time of a step comes after what concerns mIoU
    assert "lad-" in unsaid and "points" in unsaid and "headline" not in unsaid
    few = found.assign(n=2)
    assert "takes 5 seeds before it is worth a headline" in claim_pages.sceptic(few, "quick", "scenes")[2]
    few.loc[few["id"] == unsaid.split()[6], "n"] = 5  # only the largest difference is meant
    assert "headline" not in claim_pages.sceptic(few, "quick", "scenes")[2]
    found.to_csv(tmp_path / "claims.csv", index=False)
    assert claim_pages.sceptic(pd.read_csv(tmp_path / "claims.csv"), "quick", "scenes") == [counted, came_out, unsaid]
    html = claim_pages.section(found, "lad").to_html()
    tested, folded = html.split("<details>")  # what was not tested stands behind its count
    assert "● supported" in tested and "not run" not in tested and "not run" in folded and "not tested here, and why" in folded
    assert find(config_of(study, lad, 0)).id in html and "LAD &lt; CWD" in html
    assert "one family" in claim_pages.corrected(found) and "1 in all" in claim_pages.corrected(found)


def test_sentences_without_results():
    study = open_study("all")
    found = claims.frame(claims.judge(study))
    assert "no claim that needs training" in claim_pages.sceptic(found, "quick", "scenes")[1]
    assert "Without two seeds" in claim_pages.sceptic(found, "quick", "scenes")[2] and claim_pages.drawn(found).empty
    assert "0 in all" in claim_pages.corrected(found)


def test_combinations_are_methods_that_no_paper_has():
    for spec in combinations.SUMS.values():
        create_method(spec)
        assert spec not in ROWS.values()
    assert len(paper_tables("all", None)["combinations"].rows) == len(combinations.SUMS) + 1


@pytest.mark.parametrize("gain, answer", [(3.0, "Yes: CWD + RDD is above"), (0.1, "No combination beats"), (None, "No combination is trained")])
def test_combinations_are_ranked_against_every_single_method(gain, answer, fake):
    study, base = open_study("all", seeds=4), BASE[:4]
    fake(study, *((cell, base + np.roll([0.2, -0.2, 0.1, 0], i)) for i, cell in enumerate((baseline, *combinations.SINGLE))))
    if gain is not None:
        fake(study, (combinations.CELLS[0], base + gain))
    found = combinations.ranked(study)
    assert combinations.answer(found).startswith(answer)
    if gain:
        line = found.set_index("row").loc["CWD + RDD"]
        worst = min((100 * (1 / 100) * (base + gain - base - np.roll([0.2, -0.2, 0.1, 0], i + 1)).mean() for i in range(7)))
        assert line["by"] == pytest.approx(worst) and line["gain"] == pytest.approx(gain - 0.025)
    assert isinstance(combinations.table_to_show(found).to_html(), str) and pd.isna(found.set_index("row").loc["LAD", "verdict"])
