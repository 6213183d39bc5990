"""Rows of the committed `quick` report trained anew: on any x86-64 CPU the same scores to six digits."""

import platform

import pandas as pd
import pytest

from segkd import runs
from segkd.study.claims.compare import compared, sentence
from segkd.study.numbers.study import open_study
from segkd.study.report.reproduce import report_folder

ROWS = ("baseline", "CWD")  # and the teacher of CWD


@pytest.mark.skipif(platform.machine() != "x86_64", reason="promised for x86-64")
def test_committed_rows_come_out_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    study = open_study("all", "quick", "scenes")
    for row in study.rows("main"):
        if row.label in ROWS:
            runs.run(study.config(row, 0), "cpu")
    found = compared(pd.read_csv(report_folder("quick", "scenes") / "results.csv"))
    assert set(found["row"]) == {*ROWS, "teacher (plain, larger)"} and found["same"].all(), sentence(found)
