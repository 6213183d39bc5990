"""From a fresh clone to a report: train what is missing, run the notebooks whose inputs changed, link the pages."""

from __future__ import annotations

import ast
import hashlib
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path

import pandas as pd

from segkd.config import ROOT
from segkd.data import create_dataset
from segkd.runs import commit, find
from segkd.study import report
from segkd.study.executor import execute
from segkd.study.jobs import with_teachers
from segkd.study.papers import COMPARISON, PAPERS
from segkd.study.study import Study, open_study
from segkd.train.state import write_json, write_whole

NOTEBOOKS = {  # and their names in the navigation
    "00_tour": "Tour",
    "papers/lad": "LAD",
    "papers/fakd": "FAKD",
    "papers/hwd": "HWD",
    "papers/rdd": "RDD",
    "analysis/per_class_iou": "Classes",
    "analysis/feature_tsne": "Features",
    "analysis/shortcut_layercam": "Shortcut",
    "analysis/variants": "Variants",
    "analysis/cost": "Cost",
}

NEEDS = {  # rows without which a page has nothing to show: (paper, table, rows)
    "papers/rdd": ("rdd", "main", {"RDD", "teacher (plain, larger)"}),
    "analysis/variants": ("all", "main", {"baseline", "teacher (plain, larger)", "teacher (label-assisted)"}),
    "analysis/shortcut_layercam": ("lad", "shortcut", {"noised label", "clean label"}),
}


def reproduce(
    profile: str, dataset: str, executor: str = "processes", resources: str | None = None, **choice: str | None
) -> Path:
    """Everything for one profile and data set; returns the path of the report's first page.

    ``executor`` and ``resources`` as `execute` takes them. ``choice``: seeds, methods, tables, devices, teacher as ``open_study`` takes them. Mistyped names and missing data
    are found before anything is trained or written.
    """
    studies = [open_study(paper, profile, dataset, **choice) for paper in (COMPARISON, *PAPERS)]
    for split in ("train", "val", studies[0].data.split):
        create_dataset(dataset, split=split)  # a data set that is not there is said now
    folder = ROOT / "reports" / f"{profile}-{dataset}"
    _say_needs(studies, folder)
    devices = None if executor == "ray" else studies[0].devices
    execute([config for study in studies for config in study.configs()], devices, executor, resources)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(studies, folder / "results.csv")
    write_facts(studies[0], folder / "study.json")
    parameters = {"PROFILE": profile, "DATASET": dataset, **{k.upper(): v for k, v in choice.items() if v}}
    names = [name for name in NOTEBOOKS if _wanted(name, studies)]
    pages = render_pages(names, folder, parameters, inputs_digest(studies))
    return report.build_index(folder, pages, _facts(studies))


def _say_needs(studies: list[Study], folder: Path) -> None:
    profile, dataset = studies[0].profile, studies[0].dataset
    wanted = with_teachers([config for study in studies for config in study.configs()]).values()
    missing = sum(not find(c).done for c in wanted)
    free = shutil.disk_usage(ROOT).free / 1e9
    print(f"{profile.name} on {dataset}: a whole study needs {profile.needs}")
    print(f"{missing} of {len(wanted)} runs to train, {free:.0f} GB of disk free, report in {folder.relative_to(ROOT)}", flush=True)


def write_results(studies: list[Study], path: Path) -> pd.DataFrame:
    """Tidy results of all papers as one CSV; the file changes only if a number did."""
    frame = pd.concat([study.results() for study in studies], ignore_index=True)
    text = frame.to_csv(index=False, float_format="%.6g")
    if not path.exists() or path.read_text() != text:
        write_whole(path, lambda p: p.write_text(text))
    return frame


def write_facts(study: Study, path: Path) -> None:
    """What the results table was made with, for whoever reads it without the report."""
    protocol = study.facts()
    facts = {"profile": study.profile.name, "dataset": study.dataset, "shows": study.profile.shows}
    write_json(path, facts | {key: protocol[key] for key in ("data", "student", "teacher", "schedule", "seeds", "start")})


def inputs_digest(studies: list[Study]) -> str:
    """What every page depends on: the package's source, the papers' numbers and the results of the runs."""
    digest = hashlib.sha256()
    for file in [*sorted((ROOT / "segkd").rglob("*.py")), *sorted((ROOT / "data" / "papers").glob("*.csv"))]:
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    for config in sorted({c.id for study in studies for c in study.configs()}):
        digest.update(config.encode())
    for study in studies:
        for config in study.configs():
            run = find(config)
            digest.update((run.path / "result.json").read_bytes() if run.done else b"missing")
    return digest.hexdigest()


def _wanted(name: str, studies: list[Study]) -> bool:
    """False for a page whose rows METHODS or TABLES leave out; says so."""
    if name not in NEEDS:
        return True
    paper, table, rows = NEEDS[name]
    study = next(s for s in studies if s.paper == paper)
    found = {row.label for row in study.rows(table)} if table in study.tables else set()
    if rows - found:
        print(f"page {name} left out: METHODS or TABLES leave out {', '.join(sorted(rows - found))} of table '{table}'")
    return rows <= found


def render_pages(names: list[str], folder: Path, parameters: dict[str, str], digest: str) -> list[report.Page]:
    """Run and render the notebooks whose inputs changed, as many at a time as there are cores; all pages in order."""
    nav = [("Overview", "index.html"), *((NOTEBOOKS[name], f"{Path(name).name}.html") for name in names)]
    stale = []
    for name in names:
        stamp = report.stamp(ROOT / "notebooks" / f"{name}.ipynb", parameters, [digest, *map(str, nav)])
        if not report.is_fresh(folder / f"{Path(name).name}.html", stamp):
            stale.append((name, folder, parameters, nav, stamp))
    if stale:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(stale), len(os.sched_getaffinity(0))), context) as pool:
            for done, future in enumerate(as_completed([pool.submit(_render_page, *item) for item in stale]), 1):
                print(f"page {done}/{len(stale)}: {future.result()}", flush=True)
    return [_page(name, folder) for name in names]


def _render_page(name: str, folder: Path, parameters: dict, nav: list, stamp: str) -> str:
    notebook, html = ROOT / "notebooks" / f"{name}.ipynb", folder / f"{Path(name).name}.html"
    executed = report.execute(notebook, folder / "pages" / notebook.name, parameters)
    report.render(executed, html, nav)
    report.write_stamp(html, stamp)
    return name


def _page(name: str, folder: Path) -> report.Page:
    """A page for the overview; its numbers are the output of the notebook's cell tagged ``headline``."""
    from nbformat import read

    executed = folder / "pages" / f"{Path(name).name}.ipynb"
    numbers: dict[str, str] = {}
    for cell in read(executed, as_version=4).cells:
        if "headline" in cell.metadata.get("tags", []):
            numbers = ast.literal_eval(cell.outputs[-1]["data"]["text/plain"])
    return report.Page(folder / f"{Path(name).name}.html", executed, list(numbers.items()), label=NOTEBOOKS[name])


def _facts(studies: list[Study]) -> dict[str, object]:
    """What the report's first page says above its cards."""
    study = studies[0]
    protocol = study.facts()
    done = {c.id for s in studies for c in s.configs() if find(c).done}
    return {
        "title": f"Knowledge distillation for segmentation: {study.profile.name} on {study.dataset}",
        "about": f"**What this profile can show.** {study.profile.shows}",
        "profile": study.profile.name,
        "data": protocol["data"],
        "networks": f"student {protocol['student']}, teacher {protocol['teacher']}",
        "schedule": protocol["schedule"],
        "seeds": study.seeds,
        "runs": len(done),
        "commit": commit(),
        "date": date.today().isoformat(),
    }
