"""The tables of docs/findings.md: paired by seed, both intervals, only what was run."""

import math

import numpy as np
import pandas as pd
import pytest

from segkd.registry import UserError
from segkd.study.report import findings

SCORES = {"baseline": [0.30, 0.32, 0.31], "CWD": [0.35, 0.36, 0.38], "FAKD": [0.34, 0.37, 0.37], "FAKD + RDD": [0.36, 0.38, 0.37]}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    lines, images = [], {"labels": np.full((20, 2), 100)}
    for row, scores in SCORES.items():
        table = "combinations" if "+" in row else "main"
        for seed, score in enumerate(scores):
            run = f"{row}-{seed}"
            values = {"miou": score, "val_last": score}
            lines += [dict(paper="all", table=table, row=row, seed=seed, run=run, metric=k, value=v) for k, v in values.items()]
            hit = rng.integers(40, 60, (20, 2))
            images[run] = np.stack([hit, np.full((20, 2), 100)], axis=1)
    for factor, score in ((1, 0.3), (2, 0.25)):
        name = "baseline, untuned" if factor == 1 else "learning rate x 2, weight decay x 1"
        lines += [dict(paper="all", table="tuning", row=name, seed=0, run=f"t{factor}", metric=m, value=score) for m in ("miou", "val_last")]
    pd.DataFrame(lines).assign(role="student", profile="scratch", dataset="camvid").to_csv(tmp_path / "results.csv", index=False)
    np.savez(tmp_path / "images.npz", **images)
    return tmp_path


def cells(block: str, first: str) -> list[str]:
    line = next(line for line in block.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_gains_are_paired(folder):
    block = findings.findings_block(folder)
    gains = np.array([5.0, 4.0, 7.0])
    half = 4.302652729 * gains.std(ddof=1) / math.sqrt(3)
    label, seeds, score, spread, gain, over_seeds, over_images = cells(block, "CWD")
    assert (seeds, score, gain) == ("3", "36.3", "+5.3")
    assert over_seeds == f"{gains.mean() - half:+.1f} to {gains.mean() + half:+.1f}"
    assert spread == f"{np.std([35, 36, 38], ddof=1):.1f}"
    assert " to " in over_images
    assert cells(block, "baseline")[4:] == ["", "", ""]
    assert cells(block, "FAKD less CWD")[1:3] == ["3", "-0.3"]
    assert "HWD" not in block  # not run: no line
    assert cells(block, "learning rate x 2, weight decay x 1")[2:] == ["25.0", "25.0"]


def test_a_combination_is_set_against_its_closest_rival(folder):
    label, seeds, val, score, gain, rival, by, over_seeds, _ = cells(findings.findings_block(folder), "FAKD + RDD")
    gaps = np.array([1.0, 2.0, -1.0])  # over CWD; over FAKD they are 2, 1 and 0
    half = 4.302652729 * gaps.std(ddof=1) / math.sqrt(3)
    assert (seeds, val, score, gain, rival, by) == ("3", "37.0", "37.0", "+6.0", "CWD", "+0.7")
    assert over_seeds == f"{gaps.mean() - half:+.1f} to {gaps.mean() + half:+.1f}"


def test_what_a_point_costs(folder, tmp_path, monkeypatch):
    file = tmp_path / "methods.csv"
    file.write_text("row,ms a step,ms of the teacher's pass\nbaseline,100,0\nCWD,110,54\n")
    monkeypatch.setattr(findings, "ALONE", file)
    block = findings.findings_block(folder)
    line = next(line for line in block.splitlines() if line.startswith("| CWD | 110"))
    assert line == "| CWD | 110 | 54 | +64 | +5.3 | 12 |"
    assert "| baseline | 100 | 0 |  |  |  |" in block


def test_the_interval_over_images_is_that_of_resampled_images(folder):
    with np.load(folder / "images.npz") as found:
        arrays = dict(found)
    rng, drawn = np.random.default_rng(7), []
    for _ in range(3000):
        chosen = rng.integers(0, 20, 20)
        score = {}
        for row in ("CWD", "baseline"):
            hits = [arrays[f"{row}-{seed}"][chosen].sum(0) for seed in range(3)]
            score[row] = np.mean([(h[0] / (2000 + h[1] - h[0])).mean() for h in hits])
        drawn.append(100 * (score["CWD"] - score["baseline"]))
    want = np.percentile(drawn, [2.5, 97.5])
    found = [float(v) for v in cells(findings.findings_block(folder), "CWD")[6].split(" to ")]
    assert found == pytest.approx(want, abs=0.25)


def test_the_curve_of_the_baseline_is_the_mean_over_seeds(folder):
    rows = [
        {"run": f"baseline-{seed}", "kind": "val", "step": 10 * tenth, "miou": (tenth + seed) / 100}
        for seed in range(3)
        for tenth in range(1, 11)
    ]
    rows.append({"run": "baseline-0", "kind": "train", "step": 5, "miou": None})
    pd.DataFrame(rows).to_csv(folder / "curves.csv", index=False)
    found = cells(findings.findings_block(folder), "baseline | 2.0")
    assert [float(value) for value in found[1:]] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_without_image_counts_only_the_seeds_speak(folder):
    (folder / "images.npz").unlink()
    assert cells(findings.findings_block(folder), "CWD")[6] == ""


def test_the_page_keeps_its_words(folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{findings.BEGIN}\nold\n{findings.END}\nafter\n")
    findings.update_findings(page, folder)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| CWD | 3 |" in text
    page.write_text("no markers")
    with pytest.raises(UserError, match="markers"):
        findings.update_findings(page, folder)


def test_val_chooses_a_combination_and_fresh_seeds_judge_it(folder):
    results = pd.read_csv(folder / "results.csv")

    def lines(table, row, scores):
        head = dict(paper="all", table=table, row=row, profile="scratch", dataset="camvid")
        return [{**head, "seed": s, "run": f"{row}-{s}", "metric": m, "value": v} for s, pair in scores.items() for m, v in zip(("val_last", "miou"), pair)]

    more = lines("combinations", "HWD + RDD", {0: (0.4, 0.1), 1: (0.4, 0.1), 2: (0.4, 0.1), 5: (0.1, 0.39), 6: (0.1, 0.40)})
    more += lines("combinations", "LAD + HWD", {0: (0.9, 0.9), 1: (0.9, 0.9)})  # two of the three seeds: not in the choice
    more += lines("main", "CWD", {5: (0.3, 0.36), 6: (0.3, 0.35)})
    pd.concat([results, pd.DataFrame(more)]).to_csv(folder / "results.csv", index=False)
    block = findings.findings_block(folder)
    assert "| HWD + RDD (the best of 2 on val, 40.0 %) less | fresh seeds |" in block
    table = block.split("(the best of 2", 1)[1].split("\n\n", 1)[0]
    gaps = np.array([3.0, 5.0])
    half = 12.7062047 * gaps.std(ddof=1) / math.sqrt(2)
    assert cells(table, "CWD")[1:4] == ["2", "+4.0", f"{4 - half:+.1f} to {4 + half:+.1f}"]
    assert "| baseline |" not in table  # it has no fresh seed


def test_a_changed_setting_is_set_against_the_papers_own(folder):
    results = pd.read_csv(folder / "results.csv").drop(columns=["profile", "dataset"])
    scores = {"lambda 0 (CWD)": ("CWD", SCORES["CWD"]), "lambda 0.5": ("half", [0.33, 0.38]), "lambda 1": ("FAKD", SCORES["FAKD"])}
    lines = [
        dict(paper="fakd", table="lambda", row=row, role="student", seed=seed, run=f"{run}-{seed}", metric="miou", value=score)
        for row, (run, values) in scores.items()
        for seed, score in enumerate(values)
    ]
    pd.concat([results, pd.DataFrame(lines)]).assign(profile="scratch", dataset="camvid").to_csv(folder / "results.csv", index=False)
    block = findings.findings_block(folder)
    _, setting, seeds, score, gap, over_seeds, over_images = cells(block, "FAKD Table 5: final strength lambda")
    half = 12.70620474 * np.std([-1.0, 1.0], ddof=1) / math.sqrt(2)
    assert (setting, seeds, score, gap, over_images) == ("lambda 0.5", "2", "35.5", "+0.0", "")
    assert over_seeds == f"{-half:+.1f} to {half:+.1f}"
    assert block.count("final strength") == 1  # its own setting and CWD have lines of their own above


def test_other_methods_are_rivals_of_a_combination_too(folder):
    results = pd.read_csv(folder / "results.csv")
    lines = [
        dict(paper="all", table="rivals", row="DIST", seed=seed, run=f"DIST-{seed}", metric="miou", value=score)
        for seed, score in enumerate([0.37, 0.39, 0.38])
    ]
    pd.concat([results, pd.DataFrame(lines)]).assign(profile="scratch", dataset="camvid").to_csv(folder / "results.csv", index=False)
    block = findings.findings_block(folder)
    assert cells(block, "DIST")[1:5] == ["3", "38.0", "1.0", "+7.0"]
    assert cells(block, "FAKD + RDD")[5:7] == ["DIST", "-1.0"]
