"""The page above all reports: what each committed study is, and each method's gain in all of them side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from segkd.config import ROOT
from segkd.study.numbers.frozen import facts_of, read_results
from segkd.study.numbers.results import paired
from segkd.study.report.overview import Overview, Page, build_index
from segkd.study.report.readme import kept_reports
from segkd.study.tables.papers import COMPARISON, comparison_rows

ABOUT = ("data", "student", "teacher", "start")  # in what the studies differ
TEXT = (
    "Each report is one study: the same methods and the same protocol for all of them, at one size on one data set. The table sets the "
    "paired gains over the baseline of the same seeds beside each other, in points of mIoU with their 95 % interval and the number of seeds."
)


def build_site(reports: Path = ROOT / "reports") -> Path:
    """Write ``reports/index.html`` of the committed results in its folders; their pages may be there or not."""
    folders = kept_reports(reports)
    pages = [Page(folder / "index.html", folder.name) for folder in folders if (folder / "index.html").exists()]
    notes = [f"**{folder.name}**: only its numbers are here; `make report PROFILE={facts_of(folder)['profile']} DATASET={facts_of(folder)['dataset']}` makes its pages" for folder in folders if not (folder / "index.html").exists()]
    told = {folder.name: {key: facts_of(folder)[key].partition(";")[0] for key in ABOUT} | _gains(folder) for folder in folders}
    table = pd.DataFrame(told).reindex([*ABOUT, *comparison_rows("main", "rivals")]).dropna(how="all")
    style = table.fillna("").style.format(escape="html").format_index(escape="html").format_index(escape="html", axis="columns")
    return build_index(reports, pages, Overview("segkd: all studies", TEXT, table=style.to_html(), notes=notes))


def _gains(folder: Path) -> dict[str, str]:
    """Gain of each student in words, by its row; the teachers' too. Rows that were not run are left out."""
    results = read_results(folder / "results.csv")
    shown = results[(results["paper"] == COMPARISON) & (results["metric"] == "miou")].drop_duplicates(["row", "seed"])
    score = 100 * shown.set_index(["row", "seed"])["value"]
    found = {}
    for row in score.index.unique("row"):
        gain = paired(score[row], score["baseline"])
        if row == "baseline":
            found[row] = f"{score[row].mean():.1f} % mIoU, n = {len(score[row])}"
        elif gain.n:
            found[row] = f"{gain}, n = {gain.n}"
    return found
