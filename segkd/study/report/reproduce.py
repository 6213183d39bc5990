"""From a fresh clone to a report: train what is missing, freeze the results, make the pages; or the pages alone."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segkd.config import ROOT, RunConfig
from segkd.data import create_dataset
from segkd.registry import UserError, unknown
from segkd.runs import Run, find
from segkd.study.claims.compare import committed_results, compared, sentence
from segkd.study.claims.verdicts import wanted_configs
from segkd.study.execute.executor import execute
from segkd.study.execute.jobs import with_teachers
from segkd.study.numbers.frozen import altered, facts_of, kept_seeds, thaw, warning
from segkd.study.numbers.study import NO_TRAINING, Study, open_study
from segkd.study.report import notebooks as report
from segkd.study.report.first_page import findings_of, first_page, keep_pictures
from segkd.study.report.freeze import every_config, finished, freeze, freeze_measures
from segkd.study.report.readme import update_readme
from segkd.study.report.rendering import OWN, Making, make_pages
from segkd.study.report.site import build_site
from segkd.study.tables.papers import COMPARISON, PAPERS
from segkd.study.tables.profiles import get_profile
from segkd.study.tables.table import Row

NOTEBOOKS = {  # and their names in the navigation
    "00_tour": "Tour",
    "01_how_to_read": "How to read",
    "papers/lad": "LAD",
    "papers/fakd": "FAKD",
    "papers/hwd": "HWD",
    "papers/rdd": "RDD",
    "analysis/look": "Look for yourself",
    "analysis/per_class_iou": "Classes",
    "analysis/difficulty": "Difficulty",
    "analysis/predictions": "Predictions",
    "analysis/feature_tsne": "Features",
    "analysis/shortcut_layercam": "Shortcut",
    "analysis/variants": "Variants",
    "90_claims": "Claims",
    "analysis/cost": "Cost",
    OWN: "Your own data",
}

NEEDS = {  # rows without which a page has nothing to show: (paper, table, rows)
    "analysis/difficulty": ("rdd", "main", {"RDD", "teacher (plain, larger)"}),
    "analysis/variants": ("all", "main", {"baseline", "teacher (plain, larger)", "teacher (label-assisted)"}),
    "analysis/shortcut_layercam": ("lad", "shortcut", {"noised label", "clean label"}),
}


def reproduce(
    profile: str, dataset: str, executor: str = "processes", resources: str | None = None, **choice: str | None
) -> Path:
    """Everything for one profile and data set; returns the path of the report's first page. Last it says how many runs equal
    the results that were committed for it.

    ``executor`` and ``resources`` as `execute` takes them. ``choice``: seeds, methods, tables, devices, teacher as
    ``open_study`` takes them. Mistyped names and missing data are found before anything is trained or written.
    """
    studies = open_studies(profile, dataset, choice)
    for split in ("train", "val", studies[0].data.split):
        create_dataset(dataset, split=split)  # a data set that is not there is said now
    folder = report_folder(profile, dataset)
    _say_needs(studies, folder)
    devices = None if executor == "ray" else studies[0].devices
    execute([config for study in studies for config in study.configs()], devices, executor, resources)
    committed = committed_results(folder)
    folder.mkdir(parents=True, exist_ok=True)
    more = wanted_configs(studies[0])
    freeze(studies, folder, more)
    index = _write_report(studies, finished(studies, more), folder, choice, gaps=False)
    freeze_measures(folder)
    if committed is not None and len(found := compared(committed)):
        print(sentence(found), flush=True)
    return index


def make_report(profile: str, dataset: str, **choice: str | None) -> Path:
    """The report from what is there: runs on this machine, else the frozen files. Trains nothing, changes no results.

    ``choice`` as for `reproduce`, but without seeds it takes those of the frozen files where they are more than the
    profile's. UserError: neither runs nor frozen files.
    """
    folder = report_folder(profile, dataset)
    seeds = kept_seeds(folder)
    if not choice.get("seeds") and len(seeds) > get_profile(profile).seeds:
        choice["seeds"] = ",".join(map(str, seeds))
    studies = open_studies(profile, dataset, choice)
    with _with_kept_runs(studies, folder) as kept:
        found = finished(studies, wanted_configs(studies[0]))
        if not found:
            raise UserError(
                f"no results for {profile} on {dataset}: no run here and no {folder.relative_to(ROOT) / 'results.csv'}; "
                f"`make reproduce PROFILE={profile} DATASET={dataset}` makes both"
            )
        print(f"{len(found)} runs: {len(found) - len(kept)} on this machine, {len(kept)} from the committed results; nothing is trained", flush=True)
        return _write_report(studies, found, folder, choice, gaps=True)


def open_studies(profile: str, dataset: str, choice: dict[str, str | None]) -> list[Study]:
    """The joint comparison and the papers, at one profile on one data set."""
    return [open_study(paper, profile, dataset, **choice) for paper in (COMPARISON, *PAPERS)]


def report_folder(profile: str, dataset: str) -> Path:
    """Where the report of a profile on a data set lies."""
    return ROOT / "reports" / f"{profile}-{dataset}"


def thawed(report: str) -> list[str]:
    """Put the committed results of a report, such as small-camvid, among the runs of this machine; returns their ids.

    A study that was begun elsewhere goes on from there. UserError: no such report.
    """
    folder = ROOT / "reports" / report
    if not (folder / "results.csv").exists():
        raise unknown("report", report, [path.parent.name for path in folder.parent.glob("*/results.csv")])
    facts = facts_of(folder)
    studies = open_studies(facts["profile"], facts["dataset"], {"seeds": ",".join(map(str, kept_seeds(folder))) + ","})
    return thaw(_with_teachers(studies), folder)


def _with_teachers(studies: list[Study]) -> list[RunConfig]:
    return list(with_teachers(every_config(studies, wanted_configs(studies[0]))).values())


@contextmanager
def _with_kept_runs(studies: list[Study], folder: Path) -> Iterator[list[str]]:
    """While this is open, the runs are those of this machine and, without their networks, those that ``folder`` keeps.

    Gives the ids of the latter. Nothing is trained meanwhile, nor written among the runs of this machine.
    """
    configs = _with_teachers(studies)
    here = [find(config) for config in configs if find(config).done]
    with tempfile.TemporaryDirectory(prefix="segkd-runs-") as root:
        for run in here:
            (Path(root) / run.id).symlink_to(run.path.resolve())
        with report.variables(**{"SEGKD_RUNS": root, NO_TRAINING: "1"}):
            yield thaw(configs, folder)


def _say_needs(studies: list[Study], folder: Path) -> None:
    profile, dataset = studies[0].profile, studies[0].dataset
    wanted = with_teachers([config for study in studies for config in study.configs()]).values()
    missing = sum(not find(c).done for c in wanted)
    free = shutil.disk_usage(ROOT).free / 1e9
    print(f"{profile.name} on {dataset}: a whole study needs {profile.needs}")
    print(f"{missing} of {len(wanted)} runs to train, {free:.0f} GB of disk free, report in {folder.relative_to(ROOT)}", flush=True)


def inputs_digest(studies: list[Study], runs: dict[str, Run]) -> str:
    """What every page depends on: the package's source, the papers' numbers, and the results of the runs."""
    digest = hashlib.sha256()
    for file in [*sorted((ROOT / "segkd").rglob("*.py")), *sorted((ROOT / "data" / "papers").glob("*.csv"))]:
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    for config in sorted({c.id for study in studies for c in study.configs()}):
        digest.update(config.encode())
    for name, run in sorted(runs.items()):
        digest.update(name.encode() + (run.path / "result.json").read_bytes())
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


def _write_report(studies: list[Study], runs: dict[str, Run], folder: Path, choice: dict[str, str | None], gaps: bool) -> Path:
    study = studies[0]
    parameters = {"PROFILE": study.profile.name, "DATASET": study.dataset, **{k.upper(): v for k, v in choice.items() if v}}
    labels = {name: label for name, label in NOTEBOOKS.items() if _wanted(name, studies)}
    banners = tuple(warning(folder, name) for name in altered(folder))
    of = study.config(Row("CWD", "cwd"), 0).id  # whose hash is over data, both networks and the schedule
    making = Making(folder, labels, parameters, of, inputs_digest(studies, runs), gaps, banners)
    pages, notes = make_pages(making)
    found = findings_of(study)
    first = first_page(study, runs.values(), folder, found, notes, keep_pictures(folder, found), banners)
    index = report.build_index(folder, pages, first)
    build_site(folder.parent)
    update_readme()  # which repeats what this report found
    return index
