"""What was found: sentences written by rules over the results, each with its numbers; no finding is typed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segkd.analysis.figures import forest
from segkd.study.claims.floor import Floor, study_floors
from segkd.study.claims.measure import Measured, measure
from segkd.study.claims.parts import Cell, Comparison, over
from segkd.study.claims.premises import NOT_MET, OPEN, premise
from segkd.study.claims.tests import FAKD, HWD, RDD, baseline, cwd, fakd, hwd, kd, lad, rdd
from segkd.study.claims.verdicts import about_floor, about_seeds, in_unit
from segkd.study.numbers.statistics import Estimate, points, smallest_effect
from segkd.study.numbers.study import Study
from segkd.study.tables.papers import comparison_rows, single_methods

MOST_SEEDS = 100  # further than this nobody counts
LONGER, UNTRAINED, SHUFFLED = "baseline, 1.5 times as long", "CWD, untrained teacher", "CWD, teacher with shuffled classes"


@dataclass(frozen=True)
class Question:
    """A paper's method, the row that lacks just its idea, and the premises without which the comparison says nothing."""

    cell: Cell
    without: Cell
    premises: tuple[str, ...]
    code: str = ""  # the row of its released code's form, where that is another one
    rests_on: Comparison | None = None  # what must show inside its networks


QUESTIONS = {
    "lad": Question(lad, cwd, ("label_teacher", "label_used", "image_used")),
    "fakd": Question(fakd, cwd, ("teacher",), rests_on=FAKD["fakd-13"].comparisons[0]),
    "hwd": Question(hwd, cwd, ("teacher",), "HWD, as its code", HWD["hwd-09"].comparisons[0]),
    "rdd": Question(rdd, kd, ("teacher",), "RDD, as its code", RDD["rdd-17"].comparisons[0]),
}


def said(e: Estimate) -> str:
    """A difference in points of mIoU: mean, 95 % interval over seeds, seeds."""
    seeds = f"{e.n} seed{'s' if e.n != 1 else ''}"
    return f"{points(e.mean)} ({seeds})" if math.isnan(e.low) else f"{points(e.mean)} ({e.interval}, {seeds})"


def whole(study: Study) -> list[str]:
    """What the study says of all methods together, as Markdown: who gains, what time alone gives, what an ignorant teacher does."""
    gains, floors = gains_of(study), study_floors(study)
    above = [label for label, found in gains.items() if found.estimate.verdict == "higher"]
    best = max(above, key=lambda label: gains[label].estimate.mean, default="CWD")
    return list(filter(None, (_gains(gains, floors), _time(study, best), _ignorance(study))))


def gains_of(study: Study) -> dict[str, Measured]:
    """The paired gain over the baseline of each method that was run, by its row."""
    found = {label: difference(study, Cell(row), baseline) for label, row in single_methods().items()}
    return {label: one for label, one in found.items() if one.estimate.n}


def _gains(gains: Mapping[str, Measured], floors: Mapping[str, Floor]) -> str:
    if not gains:
        return ""
    inside = [label for label, found in gains.items() if found.estimate.n > 1 and about_floor([found], floors)[0]]
    words = {label: "inconclusive" if label in inside else found.estimate.verdict for label, found in gains.items()}
    side = lambda word: sorted((label for label in gains if words[label] == word), key=lambda label: -abs(gains[label].estimate.mean))  # noqa: E731
    numbers = lambda labels: "; ".join(f"{label} {said(gains[label].estimate)}" for label in labels)  # noqa: E731
    above, several = side("higher"), [found for found in gains.values() if found.estimate.n > 1]
    head = f"**{len(above) or 'None'} of {len(several)} methods with several seeds {'lies' if len(above) < 2 else 'lie'} above the baseline** with the whole interval"
    parts = [head + (f": {numbers(above)}" if above else "")] if several else []
    parts += [f"{start}: {numbers(side(word))}" for start, word in (("Below it", "lower"), ("One seed, so no verdict", "one run")) if side(word)]
    parts += [f"Not told apart from it: {', '.join(side('inconclusive'))}"] if side("inconclusive") else []
    parts += _caveats([gains[label] for label in (*above, *side("lower"))], floors)
    return ". ".join([*parts, "Intervals are not corrected for their number; those of the claims are"]) + "."


def _caveats(found: Sequence[Measured], floors: Mapping[str, Floor]) -> list[str]:
    """What stands between differences that leave zero out and a headline, as the claims have it."""
    reasons = (about_floor(found, floors)[1], about_seeds(found)) if found else ()
    return [text[:1].upper() + text[1:] for text in reasons if text]


def _time(study: Study, best: str) -> str:
    rows = comparison_rows("main", "rivals", "controls")
    longer, own = Cell(rows[LONGER]), Cell(rows[best])
    time, left = difference(study, longer, baseline).estimate, difference(study, own, longer).estimate
    if not time.n or not left.n:
        return ""
    return f"**Time alone**: the baseline trained 1.5 times as long gains {said(time)}; {best} less that longer baseline is {said(left)}."


def _ignorance(study: Study) -> str:
    rows = comparison_rows("controls")
    parts = [f"{label} {said(e)}" for label in (UNTRAINED, SHUFFLED) if (e := difference(study, Cell(rows[label]), baseline).estimate).n]
    return f"**A teacher that knows nothing** or names the wrong classes, over the baseline: {'; '.join(parts)}." if parts else ""


def of_paper(study: Study, paper: str) -> str:
    """What the study says of a paper's method, as Markdown: result, premises, the code's form, what stands before a headline."""
    question, floors = QUESTIONS[paper], study_floors(study)
    found = difference(study, question.cell, question.without)
    if not found.estimate.n:
        return f"Not run: {found.missing}. `{study.missing('main') or 'make reproduce'}`."
    premises = [premise(study, name) for name in question.premises]
    broken = [f"The {one}. {one.follows}" for one in premises if one.state == NOT_MET]
    still = [f"Open premise: {one}." for one in premises if one.state == OPEN]
    settled = not broken and found.estimate.verdict in ("higher", "lower") and not about_floor([found], floors)[0]
    parts = [_verdict(question, found.estimate, bool(broken), settled), *(broken or still), _mechanism(study, question.rests_on), _code(study, question)]
    return " ".join(filter(None, [*parts, *(f"{text}." for text in _caveats([found] if settled else [], floors))]))


def _verdict(question: Question, e: Estimate, broken: bool, settled: bool) -> str:
    """``settled``: the interval leaves zero out, and rounding alone is less."""
    own, other = question.cell.label, question.without.label
    if broken:
        return f"**Premise not met**, so {own} less {other}, {said(e)}, is no test of {own}."
    if e.n == 1:
        return f"**One seed, no verdict**: {own} less {other} is {said(e)}."
    if settled:
        return f"**{own} lies {'above' if e.mean > 0 else 'below'} {other}**: {said(e)}."
    smallest = smallest_effect(e.sd, e.n)
    seen = "" if math.isnan(smallest) else f" An effect of {smallest:.1f} points would have been seen with power 0.8{_seeds(e)}."
    return f"**{own} and {other} cannot be told apart**: {said(e)}.{seen}"


def _seeds(e: Estimate) -> str:
    """How many seeds would show one point; the spread of two values is hardly known, and nothing is made of it."""
    enough = next((n for n in range(2, MOST_SEEDS + 1) if smallest_effect(e.sd, n) <= 1), None)
    words = f"about {enough}" if enough else f"more than {MOST_SEEDS}"
    return f"; for one point it takes {words} seeds, if the spread stays as it is" if e.n > 2 else ""


def _mechanism(study: Study, one: Comparison | None) -> str:
    """Whether what the method rests on shows in its networks: a likely reason for what came out."""
    if one is None or not (found := measure(study, one)).estimate.n:
        return ""
    shows = {"higher": "shows", "lower": "does not show"}.get(found.estimate.verdict, "may or may not show")
    return f"What it rests on {shows} here ({one.what}: {forest.numbers(in_unit(found))})."


def _code(study: Study, question: Question) -> str:
    """Where the released code's form was trained too: whether it is another method."""
    if not question.code:
        return ""
    e = difference(study, Cell(comparison_rows("codes")[question.code]), question.cell).estimate
    return f"As its released code has it: {said(e)} over the paper's form." if e.n else ""


def difference(study: Study, cell: Cell, other: Cell) -> Measured:
    """The cell less the other, in points of mIoU, on the seeds that have both."""
    return measure(study, over(cell, [other])[0])
