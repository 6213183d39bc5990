"""What the analysis pages show of runs: rows that are missing, snapshots, frames over seeds, tables of what was measured."""

import numpy as np
import pandas as pd
import pytest

from segkd.registry import UserError
from segkd.runs import Run
from segkd.study.lab import page_tables, views
from segkd.study.numbers.study import open_study


@pytest.fixture(scope="module")
def study(shared_runs):
    """A smoke study of RDD with one trained row, its teacher and nothing else."""
    made = open_study("rdd", "smoke", tables="main", methods="kd+rdd", devices="cpu")
    made.run()
    return made


def test_rows_without_a_run_are_named(study, capsys):
    assert views.present(study, "main", ["KD", "RDD", "baseline"]) == ["RDD", "baseline"]
    assert "not run, so not shown here: KD (table 'main' of rdd)" in capsys.readouterr().out


def test_sample_has_at_most_so_many_images(study):
    packed = views.sample(study, 5)
    assert len(packed) == 5 and packed.size == (48, 64) and packed.split == "test"
    assert len(views.sample(study, 10_000)) == study.data.eval_limit


def test_snapshots_are_networks_on_their_way(study, capsys):
    run = views.first_run(study, "main", "RDD")
    found = views.snapshots(run)
    assert sorted(found) == [10, 25, 50, 100] and not capsys.readouterr().out
    first, last = (next(found[p].parameters()).detach().numpy() for p in (10, 100))
    assert not np.array_equal(first, last)


def test_a_run_without_snapshots_says_so(study, capsys, monkeypatch):
    load = Run.load_model

    def without(self, device="cpu", percent=100):
        if percent != 100:
            raise UserError("not kept")
        return load(self, device)

    monkeypatch.setattr(Run, "load_model", without)
    run = views.first_run(study, "main", "RDD")
    assert list(views.snapshots(run)) == [100]
    assert f"{run.id} kept no network on its way" in capsys.readouterr().out


def test_a_sweep_stands_beside_what_the_paper_prints():
    """FAKD prints scores alone: their differences to plain CWD, 33.82 (Tables 4 and 5), are computed."""
    study = open_study("fakd", "scratch", "scenes")
    found = views.gains_by_setting(study, "lambda", "lambda 0 (CWD)").set_index("lambda")["paper"]
    assert found[1.0] == pytest.approx(35.30 - 33.82) and found[2.5] == pytest.approx(31.95 - 33.82)


def test_each_run_measures_each_run_once(study):
    frame = views.each_run(study, "main", ["RDD"], lambda run: views.as_line({"miou": run.result["miou"]}))
    assert list(frame.columns) == ["method", "seed", "miou"] and frame["method"].tolist() == ["RDD"]
    assert views.each_run(study, "main", [], lambda run: run).empty
    twice = views.joined([frame, frame])
    assert len(twice) == 1 and "RDD" in views.by_seed(twice, "miou").to_html()
    assert views.teacher_of(views.first_run(study, "main", "RDD")).info.has_aux


def test_tables_and_headlines_of_nothing_are_empty(study):
    empty = pd.DataFrame(columns=["method", "seed"])
    assert page_tables.divergence_headline(empty) == page_tables.thin_headline(empty) == {}
    assert page_tables.difficulty_headline(empty, empty, empty) == page_tables.feature_headline({}, empty) == {}
    assert page_tables.shortcut_headline(empty, empty) == {} and page_tables.activation_rows({}, None, []) == []
    for table in (page_tables.divergence_table(study, empty), page_tables.cases_table(empty), page_tables.thin_table(empty)):
        assert table.to_html()


def test_headlines_are_means_of_what_was_measured():
    edges = pd.DataFrame({"method": ["KD", "KD", "RDD"], "seed": [0, 1, 0], "boundary IoU": [10.0, 12.0, 13.0]})
    outcome = pd.DataFrame({"method": "t", "seed": [0, 1], "right": [0.9, 0.8], "wrong": [0.5, 0.7]})
    cases = pd.DataFrame({"percent": [10, 100], "both easy": [0.5, 0.6], "student alone": [0.3, 0.2]})
    cases = cases.assign(**{"teacher alone": 0.1, "both hard": 0.1})
    found = page_tables.difficulty_headline(outcome, cases, edges)
    assert found["TFE weight on right and wrong pixels"] == "0.85, 0.60"
    assert found["boundary IoU, KD and RDD"] == "11.0, 13.0"
    assert found["hard for the student alone, the teacher alone, at the end"] == "20 %, 10 %"
    text = page_tables.cases_table(cases).to_html()
    assert "75.0 %" in text and "66.7 %" in text  # of XOR, the student alone


def test_divergence_table_has_the_papers_values_on_cityscapes():
    ratios = pd.DataFrame({"class": ["road", "sky"], "ratio": [5.0, 7.0], "ratio_per_image": [4.0, 6.0], "images": [3, 2]})
    assert "308.7" in page_tables.divergence_table(open_study("hwd", dataset="cityscapes"), ratios).to_html()
    assert "308.7" not in page_tables.divergence_table(open_study("hwd"), ratios).to_html()


def test_explained_classes_begin_with_the_one_asked_for():
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[:, :, 3], labels[:, 10:, 10:] = 1, 2
    packed = type("Packed", (), {"labels": labels, "num_classes": 3, "classes": ["road", "pole", "car"]})
    assert page_tables.explained_classes(packed, 2) == [2, 0, 1] and page_tables.explained_classes(packed, 0, 2) == [0, 1]
