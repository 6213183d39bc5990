"""The pages of a report: run the notebooks whose inputs changed, render them, leave out what cannot be shown here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from segkd.config import ROOT
from segkd.study.gaps import gaps_of
from segkd.study.numbers.study import NO_TRAINING
from segkd.study.report import notebooks as report
from segkd.study.report.kept import kept_of
from segkd.study.report.pages import Link, all_studies

OWN = "95_your_own_data"  # in a report: its example at its smallest size, whatever the report is of
GROUPS = {"papers": "Papers", "analysis": "Analyses", "analysis/cost": "Ship", OWN: "Ship"}  # menus of the bar, by notebook or folder


@dataclass(frozen=True)
class Making:
    """How the pages of one report are made. ``labels``: notebook (as below notebooks/, no suffix) to its name in the bar.

    ``of``: the study, by its run of CWD with seed 0. ``digest``: what every page depends on. ``banners``: warnings for the top
    of each. ``gaps``: a cell that needs what is not here shows what the page before showed there, else the reason, instead of
    stopping its page.
    """

    folder: Path
    labels: dict[str, str]
    parameters: dict[str, str]
    of: str
    digest: str
    gaps: bool = False
    banners: tuple[str, ...] = ()
    notebooks: Path = ROOT / "notebooks"

    def given(self, name: str) -> dict[str, str]:
        """The parameters of a notebook."""
        out = os.path.relpath(self.folder / "pages" / "example", ROOT)
        return {"PROFILE": "smoke", "STEPS": "", "OUT": out} if name == OWN else self.parameters

    def source(self, name: str) -> Path:
        """The notebook as it is committed."""
        return self.notebooks / f"{name}.ipynb"

    def executed(self, name: str) -> Path:
        """The executed notebook."""
        return self.folder / "pages" / f"{Path(name).name}.ipynb"

    def html(self, name: str) -> Path:
        """The page."""
        return self.folder / f"{Path(name).name}.html"


def make_pages(making: Making) -> tuple[list[report.Page], list[str]]:
    """All pages in the order of ``labels``, and what is missing, a sentence (Markdown) each."""
    stale = {name: report.stamp(making.source(name), making.given(name), [making.digest]) for name in making.labels}
    stale = {name: stamp for name, stamp in stale.items() if not report.is_fresh(making.executed(name), stamp)}
    longest = sorted(stale, key=lambda name: name not in GROUPS)  # cost measures and one's own data trains: they begin first
    _side_by_side("notebook", _execute, [(name, making, stale[name]) for name in longest])
    states = {name: _state(name, making) for name in making.labels}
    shown = {name: label for name, label in making.labels.items() if states[name][0]}
    group = lambda name: GROUPS.get(name) or GROUPS.get(Path(name).parent.name, "")  # noqa: E731
    nav = [*all_studies(making.folder), Link("Overview", "index.html"), *(Link(label, making.html(name).name, group(name)) for name, label in shown.items())]
    _side_by_side("page", _render, [(name, making, nav) for name in shown])
    pages = [report.Page(making.html(name), label, group(name)) for name, label in shown.items()]
    notes: dict[str, list[str]] = {}
    for name, (_, note) in states.items():
        notes.setdefault(note, []).append(making.labels[name])
    return pages, [f"**{', '.join(named)}**: {note}" for note, named in notes.items() if note]


def _side_by_side(what: str, task: Callable[..., str], items: Sequence[tuple]) -> None:
    """Do the tasks in as many processes as there are cores, one line for each that is done."""
    if not items:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(items), len(os.sched_getaffinity(0))), context) as pool:
        for done, future in enumerate(as_completed([pool.submit(task, *item) for item in items]), 1):
            print(f"{what} {done}/{len(items)}: {future.result()}", flush=True)


def _execute(name: str, making: Making, stamp: str) -> str:
    environment = {"SEGKD_FIGURES": str(making.folder / "figures")} | ({NO_TRAINING: ""} if name == OWN else {})
    report.run_notebook(
        making.source(name), making.executed(name), making.given(name), environment=environment, gaps=making.gaps or name == OWN, stamp=stamp
    )
    return name


def _render(name: str, making: Making, nav: list) -> str:
    report.render(making.executed(name), making.html(name), nav, making.banners, making.of)
    return name


def _state(name: str, making: Making) -> tuple[bool, str]:
    """Whether an executed notebook becomes a page, and what it lacks.

    It does not if its headline cell has nothing to show: what it is about cannot be shown here.
    """
    from nbformat import read

    cells = [cell for cell in read(making.executed(name), as_version=4).cells if gaps_of(cell)]
    kept = kept_of(making.html(name), making.of).cells if cells else {}
    empty = [cell for cell in cells if cell["id"] not in kept]
    if any("headline" in cell.metadata.get("tags", []) for cell in empty):
        making.html(name).unlink(missing_ok=True)
        return False, f"left out: {gaps_of(empty[0])[0]}"
    said = [(empty, "empty"), ([cell for cell in cells if cell not in empty], "kept from an earlier rendering")]
    parts = [f"{len(found)} {'place is' if len(found) == 1 else 'places are'} {what}" for found, what in said if found]
    return True, f"{', '.join(parts)}: {gaps_of(cells[0])[0]}" if cells else ""
