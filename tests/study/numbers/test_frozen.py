"""Frozen results: what a study says without its runs is what it said with them; altered and mixed files are noticed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segkd import cli
from segkd.config import RunConfig, to_dict
from segkd.registry import UserError
from segkd.runs import Run, find, run
from segkd.study.numbers import frozen
from segkd.study.numbers.study import NO_TRAINING, open_study
from segkd.study.report import freeze, reproduce

CLASSES = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"]
IMAGES = 5


def write_run(config, draw, **about) -> None:
    """A finished run as training leaves it, with made-up numbers."""
    path = find(config).path
    path.mkdir(parents=True)
    truth, said = (draw.integers(1, 3000, (IMAGES, len(CLASSES))) for _ in range(2))
    label = np.arange(IMAGES * len(CLASSES)).reshape(IMAGES, -1)  # the same images for every run
    np.savez(path / "images.npz", counts=np.stack([np.minimum(truth, label), label, said], axis=1))
    iou = [None, *draw.random(len(CLASSES) - 1)]  # a class that occurs nowhere
    numbers = ("miou", "macc", "pixel_accuracy", "val_last", "val_last5", "val_best", "seconds_per_step", "teacher_seconds_per_step")
    result = {name: float(value) for name, value in zip(numbers, draw.random(len(numbers)))}
    result |= {"id": config.id, "split": "test", "num_classes": len(CLASSES), "classes": CLASSES, "iou": iou, "parameters": 13_251_907}
    rows = [{"kind": "train", "step": 2, "lr": 0.1, "task": 2.5, "loss": 3.25, "kd": 0.125}, {"kind": "val", "step": 4, "miou": 0.375, "iou": iou}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"env": {"commit": "abc1234", "device": "cpu", "torch": "2.11.0"} | about, "config": to_dict(config)}
    for name, values in (files | {"result": result | {"peak_memory_mib": 812.25, "images": IMAGES, "origin": {}}}).items():
        (path / f"{name}.json").write_text(json.dumps(values))


def views(study) -> dict[str, pd.DataFrame]:
    """All that pages ask a study for."""
    found = {"scores": study.scores("main"), "curves": study.curves("main"), "classes": study.class_iou("main")}
    return found | {"results": study.results(), "summary": study.summary("main")}


@pytest.fixture(scope="module")
def kept(shared_runs, tmp_path_factory):
    """(runs, folder of frozen files, the study, what it said with its runs)."""
    study, draw = open_study("all", "smoke", "scenes", seeds="0,1", tables="main"), np.random.default_rng(0)
    for config in study.configs():
        write_run(config, draw)
    folder = tmp_path_factory.mktemp("reports") / "smoke-scenes"
    freeze.freeze([study], folder)
    (folder / "measures.csv").write_text(f"run,measure,part,value\n{study.configs()[0].id},pairwise_kl,,0.3\n")
    freeze.freeze_measures(folder)
    return shared_runs, folder, study, views(study)


@pytest.fixture
def where(kept, tmp_path, monkeypatch):
    """The frozen files (a copy, to be altered at will) on a machine without runs."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "none"))
    return shutil.copytree(kept[1], tmp_path / "smoke-scenes")


@pytest.fixture
def without_runs(kept, where):
    """The same study with the runs as they come back from the files."""
    assert len(frozen.thaw(kept[2].configs(), where)) == len(kept[2].configs())
    return kept[2]


def test_a_study_says_the_same_without_its_runs(kept, without_runs):
    for name, found in views(without_runs).items():
        columns = [c for c in found if c != "value"] if name == "results" else list(found)
        pd.testing.assert_frame_equal(found[columns].reset_index(drop=True), kept[3][name][columns], rtol=1e-5, check_dtype=False)
    value = lambda frame: frame["value"].astype(float).to_numpy()  # noqa: E731
    np.testing.assert_allclose(value(without_runs.results()), value(kept[3]["results"]), rtol=1e-8)


def test_counts_of_images_are_the_same_and_small(kept, without_runs, monkeypatch):
    row = without_runs.rows("main")[0].label
    found = without_runs.runs("main", row)[1]
    assert found.kept and found.images().dtype == np.int64
    monkeypatch.setenv("SEGKD_RUNS", str(kept[0]))
    np.testing.assert_array_equal(found.images(), find(found.config).images())
    with np.load(kept[1] / "images.npz") as arrays:
        assert arrays["labels"].dtype == np.uint8 and {a.shape[1] for n, a in arrays.items() if n != "labels"} == {2}


def test_of_a_network_that_is_not_here_all_digits_are_known_and_the_command(without_runs):
    found = without_runs.runs("main", "baseline")[0]
    assert found.result["parameters"] == 13_251_907
    with pytest.raises(UserError, match="only the numbers of this run are here; `make reproduce PROFILE=smoke DATASET=scenes`"):
        found.load_model()


def test_a_run_that_is_here_is_left_alone(kept, where):
    config = kept[2].configs()[0]
    write_run(config, np.random.default_rng(7))
    before = find(config).result
    assert config.id not in frozen.thaw(kept[2].configs(), where) and find(config).result == before and not find(config).kept
    assert frozen.thaw(kept[2].configs(), where) == [] == frozen.thaw(kept[2].configs(), where / "none")


def test_a_study_goes_on_from_what_is_kept(kept, where, monkeypatch, capsys):
    """`segkd thaw`, one more seed, and the files hold both, with where each comes from."""
    monkeypatch.setattr(reproduce, "ROOT", where.parent)
    folder = shutil.copytree(where, where.parent / "reports" / where.name)
    assert cli.main(["thaw", where.name]) == 0 and "runs of smoke-scenes are here now, without" in capsys.readouterr().out
    more = open_study("all", "smoke", "scenes", seeds="0,1,2", tables="main")
    draw = np.random.default_rng(9)
    for config in more.configs():
        if config.seed == 2:
            write_run(config, draw, commit="def5678", torch="2.15.0")
    freeze.freeze([more], folder)
    found, old = (frozen.read_results(place / "results.csv") for place in (folder, kept[1]))
    both = found.merge(old, on=["table", "row", "seed", "metric"])
    assert set(found["seed"]) == {0, 1, 2} and len(both) == len(old) and (both["value_x"] == both["value_y"]).all()
    said = json.loads((folder / "study.json").read_text())["provenance"]
    assert said["commits"] == ["abc1234", "def5678"] and said["torch"] == ["2.11.0", "2.15.0"] and said["runs"] == len(more.configs())
    assert cli.main(["thaw", "smoke-scene"]) == 2 and "did you mean 'smoke-scenes'" in capsys.readouterr().err


def test_nothing_is_trained_while_a_report_is_made(without_runs, monkeypatch):
    monkeypatch.setattr("segkd.study.numbers.study.execute", lambda *a: pytest.fail("training"))
    monkeypatch.setenv(NO_TRAINING, "1")
    without_runs.run()


def test_frozen_again_nothing_changes(kept):
    times = lambda: {path.name: path.stat().st_mtime_ns for path in kept[1].iterdir() if path.suffix != ".npz"}  # noqa: E731
    before = times()
    freeze.freeze([kept[2]], kept[1])
    assert before == times()
    assert set(before) == {*frozen.FILES, frozen.HASHES} - {"images.npz"} and frozen.altered(kept[1]) == []


@pytest.mark.parametrize("name", frozen.FILES)
def test_a_file_altered_by_hand_is_noticed(where, name):
    path = where / name
    path.write_bytes(path.read_bytes().replace(b"0.3", b"0.4", 1) + b" ")
    assert frozen.altered(where) == [name]
    said = frozen.warning(where, name)
    assert f"smoke-scenes/{name}" in said and "git checkout" in said and "make reproduce" in said
    (where / frozen.HASHES).unlink()  # every file is doubtful then
    assert frozen.altered(where) == list(frozen.FILES)


@pytest.mark.parametrize("column, other", [("profile", "quick"), ("dataset", "camvid")])
def test_mixed_results_are_refused(kept, where, column, other):
    frame = pd.read_csv(where / "results.csv")
    frame.loc[3, column] = other
    frame.to_csv(where / "results.csv", index=False)
    with pytest.raises(UserError, match=f"mixes results of several {column}s .*{other}"):
        frozen.thaw(kept[2].configs(), where)
    frame[column] = other
    frame.to_csv(where / "results.csv", index=False)
    with pytest.raises(UserError, match="results.csv and study.json are not of one study"):
        frozen.thaw(kept[2].configs(), where)


def test_lost_columns_and_facts_are_one_line(kept, where):
    pd.read_csv(where / "results.csv").drop(columns="run").to_csv(where / "results.csv", index=False)
    with pytest.raises(UserError, match="has no column run"):
        frozen.thaw(kept[2].configs(), where)
    (where / "study.json").write_text('{"profile": "smoke"}')
    with pytest.raises(UserError, match="study.json has no classes, dataset, split, train_shares"):
        frozen.thaw(kept[2].configs(), where)


def test_provenance_is_what_the_runs_say(kept):
    said = json.loads((kept[1] / "study.json").read_text())["provenance"]
    runs = freeze.finished([kept[2]]).values()
    assert said["runs"] == len(runs) == len(kept[2].configs())
    assert said["commits"] == ["abc1234"] and said["devices"] == ["cpu"] and said["torch"] == ["2.11.0"]
    total = sum(r.result["seconds_per_step"] * r.config.schedule.steps for r in runs) / 3600
    assert said["hours"] == {"CPU": round(total, 3)}
    assert said["data_fingerprint"] == kept[2].packed("train").fingerprint


def test_wall_time_counts_overlapping_runs_once(tmp_path):
    runs = []
    for seed, (begin, end) in enumerate([(0, 10), (5, 20), (8, 9), (100, 130)]):
        path = tmp_path / str(seed)
        path.mkdir()
        for name, time in (("config.json", begin), ("result.json", end)):
            (path / name).touch()
            os.utime(path / name, (1e6 + time, 1e6 + time))
        runs.append(Run(replace(RunConfig(), seed=seed), path))
    assert freeze.wall_seconds(runs) == pytest.approx(50)


def test_report_is_made_of_the_files_alone(kept, where, monkeypatch):
    """The first page without a run on disk: the numbers of the runs, where they come from, and a warning once one is altered."""
    monkeypatch.setattr(reproduce, "NOTEBOOKS", {})
    monkeypatch.setattr(reproduce, "open_studies", lambda *choice: [kept[2]])
    monkeypatch.setattr(reproduce, "report_folder", lambda profile, dataset: where)
    monkeypatch.setattr("segkd.study.numbers.study.execute", lambda *a: pytest.fail("training"))
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    text = reproduce.make_report("smoke", "scenes").read_text()
    scores = kept[3]["scores"].groupby("row")["miou"].mean() * 100
    assert all(f"{score:.1f}" in text for score in scores) and "abc1234" in text and 'role="alert"' not in text
    assert {path.name: path.read_bytes() for path in where.iterdir() if path.name in before} == before
    (where / "results.csv").write_bytes(before["results.csv"] + b"\n")
    assert 'role="alert"' in reproduce.make_report("smoke", "scenes").read_text()
    assert not (where.parent / "none").exists() and NO_TRAINING not in os.environ, "nothing is left among the runs"


def test_report_takes_all_the_seeds_that_are_kept(where, monkeypatch):
    def chosen(given):
        asked = []
        monkeypatch.setattr(reproduce, "open_studies", lambda profile, dataset, choice: asked.append(choice) or pytest.fail("opened"))
        with pytest.raises(pytest.fail.Exception, match="opened"):
            reproduce.make_report("smoke", "scenes", seeds=given)
        return asked[0]["seeds"]

    monkeypatch.setattr(reproduce, "report_folder", lambda profile, dataset: where)
    assert chosen(None) == chosen("") == "0,1" and chosen("1") == "1"  # smoke's own is one seed
    monkeypatch.setattr(reproduce, "report_folder", lambda profile, dataset: where / "none")
    assert chosen(None) is None


def test_report_of_nothing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "none"))
    monkeypatch.setattr(reproduce, "report_folder", lambda profile, dataset: reproduce.ROOT / "reports" / "no-such")
    with pytest.raises(UserError, match="no results for smoke on scenes: .*`make reproduce PROFILE=smoke DATASET=scenes` makes both"):
        reproduce.make_report("smoke", "scenes")


def test_a_teacher_of_which_only_the_numbers_are_here_is_trained_for_a_new_student(kept, where, monkeypatch):
    study = kept[2]
    config = next(c for c in study.configs() if c.method == "cwd")
    frozen.thaw([config.teacher], where)
    assert find(config.teacher).kept
    done = run(config, "cpu")
    assert done.result["origin"]["teacher"]["run"] == config.teacher.id and not find(config.teacher).kept
    find(config.teacher).load_model()
