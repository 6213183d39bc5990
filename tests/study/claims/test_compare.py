"""`segkd compare`: a run trained again is the same, an altered result is seen, and the tolerance is that of two means."""

import math
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from segkd import cli
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.registry import UserError
from segkd.runs import run
from segkd.study.claims.compare import committed_results, compare_lines, compared, rows_in_words, sentence
from segkd.study.claims.floor import floors_of
from segkd.study.numbers.results import tidy
from segkd.study.tables.table import Row

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
SCHEDULE = Schedule("adamw", steps=2, batch_size=2, validations=1)


def config(seed):
    """A run with a teacher, whose pass takes its own time."""
    teacher = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), SCHEDULE, seed=seed)
    return replace(teacher, method="kd", teacher=teacher)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A report's results of two runs, both trained in a folder that is left behind."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("reports")
    patch.setenv("SEGKD_RUNS", str(tmp_path_factory.mktemp("runs")))
    lines = [line for seed in (0, 1) for line in tidy("all", "main", Row("baseline"), run(config(seed)))]
    (root / "tiny-scenes").mkdir()
    pd.DataFrame(lines).assign(profile="tiny").to_csv(root / "tiny-scenes" / "results.csv", index=False, float_format="%.9g")
    patch.undo()
    return root


def test_trained_again_it_is_the_same(committed, runs):
    with pytest.raises(UserError, match="none of the 2 runs of tiny-scenes is finished"):
        list(compare_lines("tiny-scenes", committed))
    run(config(0))
    lines = list(compare_lines("tiny-scenes", committed))
    assert config(0).id in lines[-3] and lines[-3].split()[-1] == "equal"
    assert lines[-2:] == ["1 of 2 runs are here", "1 of 1 runs equal the committed results to 6 digits"]


def test_a_difference_in_one_class_is_seen(committed, runs):
    run(config(0))
    results = pd.read_csv(committed / "tiny-scenes" / "results.csv")
    assert compared(results)["same"].all()
    one = results["metric"].str.startswith("iou/") & (results["seed"] == 0)
    name = results[one].index[0]
    results.loc[name, "value"] += 4e-7
    assert compared(results)["same"].all()
    results.loc[name, "value"] += 1e-3
    found = compared(results)
    assert not found["same"].any()
    said = "0 of 1 runs equal the committed results to 6 digits; largest difference 0.1000 points, in "
    assert sentence(found) == f"{said}{results.loc[name, 'metric']} of {config(0).id}"
    assert found["verdict"].tolist() == ["differs"]  # no floor is committed: nothing says that rounding may do it


@pytest.mark.parametrize("step, verdict", [(0.004, "within rounding"), (0.05, "differs")])
def test_a_committed_floor_says_what_rounding_may_do(committed, runs, step, verdict):
    run(config(0))
    results = pd.read_csv(committed / "tiny-scenes" / "results.csv")
    results.loc[results["metric"] == "miou", "value"] += step
    copies = pd.DataFrame({"level": [f"rounding={k}" for k in range(3)], "run": [f"copy-{k}" for k in range(3)], "value": [0.300, 0.302, 0.298]})
    copies = copies.assign(paper="all", table="floor", row="copy", role="student", method="kd", seed=0, metric="miou")
    found = compared(pd.concat([results, copies]))
    assert found["verdict"].tolist() == [verdict]
    # sd 0.2 points, two degrees of freedom, a difference of two runs: 4.3027 * 0.2 * sqrt(2) = 1.22 points
    said = next(rows_in_words(found, floors_of(copies)))
    assert said.endswith("within ± 1.22 of rounding" if verdict != "differs" else "BEYOND ± 1.22 of rounding")
    assert ("1 more are within rounding" in sentence(found)) == (verdict == "within rounding")


def test_the_committed_results_are_those_of_git_whatever_lies_there(committed, tmp_path, monkeypatch):
    folder = tmp_path / "reports" / "tiny-scenes"
    assert committed_results(folder) is None
    shutil.copytree(committed / "tiny-scenes", folder)
    git = lambda *words: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=tmp_path, check=True)  # noqa: E731
    git("init", "-q")
    assert committed_results(folder) is None
    git("add", "."), git("commit", "-qm", "results")
    (folder / "results.csv").write_text("overwritten")
    assert committed_results(folder).equals(pd.read_csv(committed / "tiny-scenes" / "results.csv"))
    monkeypatch.setenv("PATH", "")  # a slim container
    assert committed_results(folder) is None


def test_the_tolerance_is_that_of_two_means():
    found = pd.DataFrame({"row": "CWD", "role": "student", "seed": [0, 1], "run": "x", "committed": [0.39, 0.40], "here": [0.40, 0.41], "same": False})
    allowed = math.sqrt(2) * 12.7062047 * math.sqrt(0.5) / math.sqrt(2)  # t with one degree of freedom; sd is sqrt(0.5) points
    assert list(rows_in_words(found, {})) == [f"CWD: mean of 2 seeds +1.00 points, within ± {allowed:.2f}"]
    assert "BEYOND" in next(rows_in_words(found.assign(here=[0.6, 0.6]), {}))
    assert "one seed" in next(rows_in_words(found[:1], {}))
    assert list(rows_in_words(found.assign(same=True), {})) == []


def test_an_unknown_report_is_answered_with_the_nearest(capsys):
    assert cli.main(["compare", "quick-scene"]) == 2
    assert "quick-scenes" in capsys.readouterr().err
