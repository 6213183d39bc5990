"""The results block of README.md: table, forest plot and sentences, generated from the committed results, never typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from segkd.config import ROOT
from segkd.registry import UserError
from segkd.study.numbers.frozen import altered, read_results, warning
from segkd.study.numbers.results import paired
from segkd.study.tables.papers import COMPARISON, comparison_rows
from segkd.train.state import write_whole

PAGE_LINK = re.compile(r" \[\w+\]\(\w+\.html\)$")  # pages are not in the repository of every report
BEGIN, END = "<!-- results: written by `segkd readme` -->", "<!-- end of results -->"


def update_readme(readme: Path = ROOT / "README.md") -> None:
    """Replace what stands between the two markers; UserError if they are not there."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(f"{readme.name}: the markers of the results block are missing; put back '{BEGIN}' and '{END}'")
    head, rest = text.split(BEGIN, 1)
    text = head + BEGIN + "\n" + results_block() + END + rest.split(END, 1)[1]
    write_whole(readme, lambda path: path.write_text(text))


def results_block(reports: Path = ROOT / "reports") -> str:
    """One section for every ``reports/<profile>-<dataset>/results.csv`` that is kept in the repository."""
    return "".join(_section(folder / "results.csv") for folder in kept_reports(reports)) or "\nNo results yet.\n"


def kept_reports(reports: Path = ROOT / "reports") -> list[Path]:
    """The folders of reports with results in the repository."""
    return [path.parent for path in sorted(reports.glob("*/results.csv")) if not path.parent.name.startswith("smoke")]


def _section(path: Path) -> str:
    facts, folder = json.loads((path.parent / "study.json").read_text()), path.parent
    lines = [
        f"\n### {facts['profile']} on {facts['dataset']}\n",
        *(f"**{warning(folder, name)}**\n" for name in altered(folder)),
        f"Data: {facts['data']}. Student {facts['student']}, teacher {facts['teacher']}. {facts['schedule']}. Seeds {facts['seeds']}.",
        facts["shows"] + "\n",
        *_sentences(folder),
        "| row | seeds | mIoU % (± sd over seeds) | gain over the baseline of the same seeds (95 % interval) | verdict | val %, last step |",
        "| --- | --- | --- | --- | --- | --- |",
        *_rows(read_results(path)),
    ]
    place = "/".join(folder.parts[-2:])
    forest = f"\n![The effect behind each claim of the papers with its 95 % interval]({place}/forest.png)\n" if (folder / "forest.png").exists() else ""
    return "\n".join(lines) + "\n" + forest + f"\nEvery number with its run: `{place}/results.csv`.\n"


def _sentences(folder: Path) -> list[str]:
    """What was found, and what a sceptic would sign of the claims, where the pages were made; an empty line follows each."""
    path = folder / "claims.json"
    if not path.exists():
        return []
    said = json.loads(path.read_text())
    found = ["- " + PAGE_LINK.sub("", text) for text in said.get("findings", [])]
    return [*found, *([""] if found else []), " ".join(said["sentences"]), ""]


def _rows(results: pd.DataFrame) -> list[str]:
    """The four papers' rows with their teachers, then the methods that they compare with, as far as these have two seeds."""
    main, tables = comparison_rows("main"), ("main", "rivals")
    shown = results[(results["paper"] == COMPARISON) & results["table"].isin(tables)].drop_duplicates(["row", "seed", "metric"])
    value = lambda metric: shown[shown["metric"] == metric].set_index(["row", "seed"])["value"] * 100  # noqa: E731
    score, val = value("miou"), value("val_last")
    lines = []
    for row in comparison_rows(*tables).values():
        if row.label not in score.index.get_level_values("row"):
            continue
        own, base = score[row.label], score["baseline"]
        if len(own) < 2 and row.label not in main:
            continue
        gain, verdict = "", ""
        if row.role == "student" and row.label != "baseline":
            own = own[own.index.intersection(base.index)]  # its mean and its gain are of the same seeds
            found = paired(own, base)
            gain, verdict = str(found), found.verdict
        spread = f" ± {own.std(ddof=1):.1f}" if len(own) > 1 else ""
        lines.append(f"| {row.label} | {len(own)} | {own.mean():.1f}{spread} | {gain} | {verdict} | {val[row.label][own.index].mean():.1f} |")
    return lines
