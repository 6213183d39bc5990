"""What must hold before a claim says anything: premises, measured on this study's own runs, as the table that heads a page."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from segkd.runs import Run, find
from segkd.study.claims import floor
from segkd.study.claims.measure import measure
from segkd.study.claims.measures import ZERO
from segkd.study.claims.parts import Comparison, config_of, over, value
from segkd.study.claims.tests import USED, baseline, label_teacher, teacher
from segkd.study.numbers.statistics import Estimate, half_width, pooled_spread
from segkd.study.numbers.study import Study
from segkd.study.tables.papers import COMPARISON

MET, NOT_MET, OPEN = "met", "not met", "open"
MARKS = {MET: "●", NOT_MET: "✖", OPEN: "■", "": ""}
COLOURS = {MET: "light-dark(#00735a, #4cc9a6)", NOT_MET: "light-dark(#b34700, #ff9b5c)"}
STILL = "Open: the claims that need it are judged, and say so."
CLASSES = "classes"
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Premise:
    """A number that must lie above a limit, and what follows if it does and if it does not."""

    what: str
    comparison: Comparison
    met: str
    not_met: str


@dataclass(frozen=True)
class Found:
    """A premise as this study has it: the number in words, on how many seeds, and MET, NOT_MET, OPEN or "" (no premise)."""

    what: str
    value: str
    n: int
    state: str
    follows: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value}" + (f", n = {self.n}" if self.n else "")


PREMISES = {  # by the names that tests of claims give
    "teacher": Premise(
        "plain teacher − student", over(teacher, [baseline])[0], "The teacher has something to teach.",
        "Nothing to teach: claims of FAKD, HWD, RDD and of the methods beside them say nothing here.",
    ),
    "label_teacher": Premise(
        "label-assisted teacher − student", over(label_teacher, [baseline])[0], "The label-assisted teacher has something to teach.",
        "Nothing to teach: claims about LAD's students say nothing here.",
    ),
    "image_used": Premise(
        "label-assisted teacher, lost without the image", value("", label_teacher, "image_drop", USED), "It looks at the image.",
        "It does not look at the image.",
    ),
    "label_used": Premise(
        "label-assisted teacher, lost without the label", value("", label_teacher, "label_drop", USED), "It uses its label.",
        "It does not use its label, so it is no label-assisted teacher: claims about LAD's students say nothing here.",
    ),
    "plain_image": Premise(
        "plain teacher, lost without the image", value("", teacher, "plain_image_drop", USED), "It looks at the image.",
        "Its score is that of a guess without looking.",
    ),
}  # fmt: skip


def state_of(estimate: Estimate, limit: float = 0.0) -> str:
    """MET: the 95 % interval lies above the limit. NOT_MET: the mean does not. OPEN: neither, or nothing is measured."""
    if not estimate.n:
        return OPEN
    return NOT_MET if estimate.mean <= limit else MET if estimate.low > limit else OPEN


def premise(study: Study, name: str) -> Found:
    """One of PREMISES, or CLASSES, on the seeds of the study that have the runs."""
    return _classes(study) if name == CLASSES else _compared(study, PREMISES[name])


def _compared(study: Study, one: Premise) -> Found:
    measured = measure(study, one.comparison)
    e, limit = measured.estimate, one.comparison.limit
    state = state_of(e, limit)
    follows = {MET: one.met, NOT_MET: one.not_met, OPEN: STILL if e.n else "Not known here."}[state]
    text = str(e) + (f", limit {limit:g}" if limit else "")
    missing = measured.missing if measured.missing.startswith("not trained") else "not measured here"
    return Found(one.what, missing if measured.missing else text, e.n, state, follows)


def _baselines(study: Study) -> list[Run]:
    return [run for seed in study.seeds if (run := find(config_of(study, baseline, seed))).done]


def _classes(study: Study) -> Found:
    """The classes that the baseline does not find at all: less than ZERO points of IoU, mean over seeds."""
    runs, what = _baselines(study), "classes at zero in the baseline"
    if not runs:
        return Found(what, "not trained: baseline", 0, OPEN, STILL)
    iou = pd.DataFrame([run.result["iou"] for run in runs], columns=runs[0].result["classes"], dtype=float).dropna(axis=1, how="all")
    gone = list(iou.columns[100 * iou.mean(skipna=False) < ZERO])
    text = f"{len(gone)} of {len(iou.columns)}" + (f": {', '.join(gone)}" if gone else "")
    follows = "Claims about classes leave them out: nothing can be lost or gained there." if gone else "Claims about classes are about all of them."
    return Found(what, text, len(runs), OPEN if gone else MET, follows)


def _floor(study: Study) -> Found:
    found = floor.study_floors(study).get("student")
    what = "rounding alone, spread of a score"
    if found is floor.EXACT:
        return Found(what, "below the digits shown", 0, "", "In float64 any x86-64 CPU gives the same numbers (docs/trust.md).")
    if found is None:
        how = f"make reproduce PROFILE={study.profile.name} DATASET={study.dataset} TABLES={COMPARISON}/{floor.TABLE}"
        return Found(what, "not measured", 0, OPEN, f"Another machine may give other numbers. How far off: {how}")
    follows = f"A difference of two rows of one seed below {floor.reach({'student': found}, ['student'], (1, -1)):.1f} points may be rounding."
    return Found(what, str(found.rounding), 1, "", follows)


def _seeds(study: Study) -> Found:
    scores = [100 * run.result["miou"] for run in _baselines(study)]
    spread, what = pooled_spread([scores]), "seeds, spread of the baseline"
    if not spread.df:
        return Found(what, "takes two seeds", len(scores), OPEN, "No difference has an interval.")
    return Found(what, str(spread), len(scores), "", f"Its mean is known to ± {half_width(spread.sd, len(scores)):.1f} points.")


def premises(study: Study) -> pd.DataFrame:
    """All of them: what, measured (points of mIoU, 95 % interval), n, state, what follows."""
    found = [premise(study, name) for name in (*PREMISES, CLASSES)] + [_floor(study), _seeds(study)]
    return pd.DataFrame([vars(one) for one in found])


def table(study: Study) -> pd.io.formats.style.Styler:
    """`premises`, ready to show."""
    found = premises(study)
    found["state"] = [f"{MARKS[state]} {state}".replace(" ", NO_BREAK) for state in found["state"]]
    shown = found.rename(columns={"what": "premise", "value": "measured here", "state": "", "follows": "what follows"})
    words = lambda text: text[2:].replace(NO_BREAK, " ")  # noqa: E731
    colour = lambda text: f"color: {COLOURS[words(text)]}; font-weight: bold" if words(text) in COLOURS else ""  # noqa: E731
    return shown.style.hide(axis="index").map(colour, subset=[""]).format(escape="html")
