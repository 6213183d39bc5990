"""What was found: sentences written by rules over the results, each with its numbers; no finding is typed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segkd.study.claims.measure import Measured, measure
from segkd.study.claims.parts import Cell, over
from segkd.study.claims.premises import NOT_MET, premise
from segkd.study.claims.tests import baseline, cwd, fakd, hwd, kd, lad, rdd
from segkd.study.tables.papers import comparison_rows, single_methods
from segkd.study.tables.statistics import Estimate, points, smallest_effect
from segkd.study.tables.study import Study

MOST_SEEDS = 100  # further than this nobody counts
LONGER, UNTRAINED, SHUFFLED = "baseline, 1.5 times as long", "CWD, untrained teacher", "CWD, teacher with shuffled classes"


@dataclass(frozen=True)
class Question:
    """A paper's method, the row that lacks just its idea, and the premises without which the comparison says nothing."""

    cell: Cell
    without: Cell
    premises: tuple[str, ...]
    code: str = ""  # the row of its released code's form, where that is another one


QUESTIONS = {
    "lad": Question(lad, cwd, ("label_teacher", "label_used", "image_used")),
    "fakd": Question(fakd, cwd, ("teacher",)),
    "hwd": Question(hwd, cwd, ("teacher",), "HWD, as its code"),
    "rdd": Question(rdd, kd, ("teacher",), "RDD, as its code"),
}


def said(e: Estimate) -> str:
    """A difference in points of mIoU: mean, 95 % interval over seeds, seeds."""
    seeds = f"{e.n} seed{'s' if e.n != 1 else ''}"
    return f"{points(e.mean)} ({seeds})" if math.isnan(e.low) else f"{points(e.mean)} ({points(e.low)} to {points(e.high)}, {seeds})"


def whole(study: Study) -> list[str]:
    """What the study says of all methods together, as Markdown: who gains, what time alone gives, what an ignorant teacher does."""
    gains = gains_of(study)
    best = max((label for label, e in gains.items() if e.low > 0), key=lambda label: gains[label].mean, default="")
    return [text for text in (_gains(gains), _time(study, best or "CWD"), _ignorance(study)) if text]


def gains_of(study: Study) -> dict[str, Estimate]:
    """The paired gain over the baseline of each method that was run, by its row."""
    found = {label: difference(study, Cell(row), baseline).estimate for label, row in single_methods().items()}
    return {label: e for label, e in found.items() if e.n}


def _gains(gains: dict[str, Estimate]) -> str:
    if not gains:
        return ""
    above = sorted((label for label, e in gains.items() if e.low > 0), key=lambda label: -gains[label].mean)
    below = sorted((label for label, e in gains.items() if e.high < 0), key=lambda label: gains[label].mean)
    single = [label for label, e in gains.items() if e.n == 1]
    even = [label for label in gains if label not in (*above, *below, *single)]
    numbers = lambda labels: "; ".join(f"{label} {said(gains[label])}" for label in labels)  # noqa: E731
    several = len(gains) - len(single)
    head = f"**{len(above) or 'None'} of {several} methods with several seeds {'lies' if len(above) < 2 else 'lie'} above the baseline** with the whole interval"
    parts = [head + (f": {numbers(above)}" if above else "")] if several else []
    parts += [f"below it: {numbers(below)}"] if below else []
    parts += [f"not told apart from it: {', '.join(even)}"] if even else []
    parts += [f"one seed, so no verdict: {numbers(single)}"] if single else []
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + ". Intervals are not corrected for their number; those of the claims are."


def _time(study: Study, best: str) -> str:
    rows = comparison_rows("main", "rivals", "controls")
    longer, own = Cell(rows[LONGER]), Cell(rows[best])
    time, left = difference(study, longer, baseline).estimate, difference(study, own, longer).estimate
    if not time.n or not left.n:
        return ""
    return f"**Time alone**: the baseline trained 1.5 times as long gains {said(time)}; {best} less that longer baseline is {said(left)}."


def _ignorance(study: Study) -> str:
    rows = comparison_rows("controls")
    found = {label: difference(study, Cell(rows[label]), baseline).estimate for label in (UNTRAINED, SHUFFLED)}
    parts = [f"{label} {said(e)}" for label, e in found.items() if e.n]
    return f"**A teacher that knows nothing** or names the wrong classes, over the baseline: {'; '.join(parts)}." if parts else ""


def of_paper(study: Study, paper: str) -> str:
    """What the study says of a paper's method, as Markdown: premise, result, reason where it was measured, what would tell more."""
    question = QUESTIONS[paper]
    found = difference(study, question.cell, question.without)
    if not found.estimate.n:
        return f"Not run: {found.missing}. `{study.missing('main') or 'make reproduce'}`."
    broken = [one for one in (premise(study, name) for name in question.premises) if one.state == NOT_MET]
    parts = [_verdict(question, found.estimate, bool(broken)), *(f"{one}. {one.follows}" for one in broken)]
    if question.code:
        parts.append(_code(study, question))
    return " ".join(filter(None, parts))


def _verdict(question: Question, e: Estimate, broken: bool) -> str:
    own, other = question.cell.label, question.without.label
    if broken:
        return f"**Premise not met**, so {own} less {other}, {said(e)}, is no test of {own}."
    if e.n == 1:
        return f"**One seed, no verdict**: {own} less {other} is {said(e)}."
    if e.low > 0:
        return f"**{own} is above {other}**: {said(e)}."
    if e.high < 0:
        return f"**{own} is below {other}**: {said(e)}."
    smallest = smallest_effect(e.sd, e.n)
    seen = "" if math.isnan(smallest) else f" An effect of {smallest:.1f} points would have been seen with power 0.8; {_seeds(e)}"
    return f"**{own} and {other} cannot be told apart**: {said(e)}.{seen}"


def _seeds(e: Estimate) -> str:
    enough = next((n for n in range(2, MOST_SEEDS + 1) if smallest_effect(e.sd, n) <= 1), None)
    return f"for one point it takes {f'about {enough}' if enough else f'more than {MOST_SEEDS}'} seeds, if the spread stays as it is."


def _code(study: Study, question: Question) -> str:
    """Where the released code's form was trained too: whether it is another method."""
    row = comparison_rows("codes").get(question.code)
    e = difference(study, Cell(row), question.cell).estimate if row else None
    return f"As its released code has it: {said(e)} over the paper's form." if e and e.n else ""


def difference(study: Study, cell: Cell, other: Cell) -> Measured:
    """The cell less the other, in points of mIoU, on the seeds that have both."""
    return measure(study, over(cell, [other])[0])
