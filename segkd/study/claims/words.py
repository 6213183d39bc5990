"""Claims in words: the table of the page, its coverage, and three sentences that a sceptic would sign."""

from __future__ import annotations

import math

import pandas as pd

from segkd.analysis.figures.forest import numbers
from segkd.study.claims.verdicts import CANNOT, CONTRADICTED, HEADLINE_SEEDS, INCONCLUSIVE, NO_PREMISE, NOT_RUN, SUPPORTED, VERDICTS, is_points
from segkd.study.numbers.show import TableView, folded
from segkd.study.numbers.statistics import points

PAPER_NAMES = {"lad": "LAD", "fakd": "FAKD", "hwd": "HWD", "rdd": "RDD", "all": "across papers"}
NAMED = 3  # claims that a sentence names
MARKS = {SUPPORTED: "●", CONTRADICTED: "✖", INCONCLUSIVE: "■", NO_PREMISE: "▽", NOT_RUN: "◇", CANNOT: "–"}
AGAIN = "counted above"  # a claim that the comparison of an earlier one decides
COLOURS = {SUPPORTED: "light-dark(#00735a, #4cc9a6)", CONTRADICTED: "light-dark(#b34700, #ff9b5c)"}


def claims_table(found: pd.DataFrame) -> pd.io.formats.style.Styler:
    """The claims of one paper (lines of `claims.frame`) ready to show; hovering over the evidence shows its runs."""
    lines = found.to_dict("records")
    shown = pd.DataFrame({
        "claim": [f"{one['id']} ({one['kind']})\n{one['claim']}\nIn the paper: {one['reported_support']}" for one in lines],
        "verdict": [f"{MARKS[one['verdict']]} {one['verdict']}" for one in lines],
        "evidence here": ["\n".join(filter(None, _evidence(one))) for one in lines],
    })  # fmt: skip
    tips = pd.DataFrame("", index=shown.index, columns=shown.columns)
    tips["evidence here"] = [f"runs: {one['runs']}" if one["runs"] else "" for one in lines]
    colour = lambda text: f"color: {COLOURS[text[2:]]}; font-weight: bold" if text[2:] in COLOURS else ""  # noqa: E731
    table = shown.style.hide(axis="index").map(colour, subset=["verdict"]).set_tooltips(tips, as_title_attribute=True)
    return table.set_properties(**{"white-space": "pre-line", "vertical-align": "top"}).format(escape="html")


def section(found: pd.DataFrame, paper: str) -> TableView:
    """The claims of one paper: what was tested, and folded below it what was not."""
    own = found[found["paper"] == paper]
    tested = ~own["verdict"].isin([NOT_RUN, CANNOT])
    parts = [claims_table(own[tested]).to_html()] if tested.any() else []
    parts += [folded(f"{(~tested).sum()} not tested here, and why", claims_table(own[~tested]))] if not tested.all() else []
    return TableView("\n".join(parts))


def _evidence(one: dict) -> list[str]:
    """Effect, interval over images, p, smallest effect, how many comparisons point the claim's way, reason and note."""
    effect = "" if math.isnan(one["effect"]) else f"{one['comparison']}: {numbers(one)}"
    images = "" if math.isnan(one["image_low"]) else f"over images {points(one['image_low'])} to {points(one['image_high'])}"
    said = lambda p: "< 0.001" if p < 0.001 else f"= {p:.3f}"  # noqa: E731
    p = "" if math.isnan(one["p"]) else f"p {said(one['p'])}, corrected {said(one['p_holm'])}"
    agree = f"{one['agree']} of {one['measured']} measured comparisons point the claim's way" if one["comparisons"] > 1 and one["measured"] else ""
    again = f"the same comparison as {one['same_as']}, counted there" if one["same_as"] else ""
    sentences = [text[:1].upper() + text[1:].rstrip(".") + "." for text in (agree, again, one["reason"]) if text]
    return [effect, images, p, _seen(one), *sentences, one["note"]]


def _seen(one: dict) -> str:
    """The smallest effect that the claim's deciding comparison could have shown, and what rounding alone may make of it."""
    form = {"points": "{:.1f} points", "ratio": "×{:.4g}"}.get(one["unit"], "{:.2g}")
    smallest = "" if math.isnan(one["smallest"]) else f"smallest effect seen with power 0.8: {form.format(one['smallest'])}"
    floor = "" if math.isnan(one["floor"]) else f"rounding alone: ±{one['floor']:.1f}"
    return ", ".join(filter(None, (smallest, floor)))


def distinct(found: pd.DataFrame) -> pd.DataFrame:
    """The claims that count: one for each comparison that decides. All numbers of claims are counted from these."""
    return found[found["same_as"].isna() | (found["same_as"] == "")]


def verdict_counts(found: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each paper have which verdict, with sums; ``tested`` is the first three together."""
    counted = found.assign(verdict=found["verdict"].mask(~found.index.isin(distinct(found).index), AGAIN))
    columns = [*VERDICTS[:3], AGAIN, *VERDICTS[3:]]
    counts = pd.crosstab(counted["paper"], counted["verdict"]).reindex(index=list(PAPER_NAMES), columns=columns, fill_value=0)
    counts.index = list(PAPER_NAMES.values())
    counts.loc["all"] = counts.sum()
    counts.insert(0, "tested", counts[[SUPPORTED, CONTRADICTED, INCONCLUSIVE]].sum(axis=1))
    counts.insert(0, "claims", counts[["tested", AGAIN, NO_PREMISE, NOT_RUN, CANNOT]].sum(axis=1))
    return counts.rename_axis("paper", axis=0).rename_axis(None, axis=1).reset_index()


def corrected(found: pd.DataFrame) -> str:
    """How many claims share the correction, as a sentence."""
    count = int(found["p"].notna().sum())
    return f"Corrected together, as one family: the claims that rest on training, have their premises and a p value, {count} in all."


def drawn(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `claims.frame` that have an effect, as `forest` takes them: claims that one comparison decides share one."""
    chosen = distinct(found[found["effect"].notna()])
    names = [", ".join([one, *found.loc[found["same_as"] == one, "id"]]) for one in chosen["id"]]
    return chosen.assign(group=chosen["paper"].map(PAPER_NAMES), label=[f"{a}  {b}" for a, b in zip(names, chosen["comparison"])])


def headline(found: pd.DataFrame) -> dict[str, str]:
    """How many claims came out how, for the overview and the plot's legend; one for each comparison that decides."""
    counts = distinct(found)["verdict"].value_counts()
    return {verdict: str(int(counts.get(verdict, 0))) for verdict in VERDICTS}


def sceptic(found: pd.DataFrame, profile: str, dataset: str) -> list[str]:
    """Three sentences from `claims.frame` (or its CSV): how many claims were tested with a profile on a data set, which
    came out how, and what cannot be said."""
    return [_counted(found, f"{profile} on {dataset}"), _came_out(found), _unsaid(found)]


def plain(text: str) -> str:
    """Text with what Markdown or HTML would read as markup made harmless."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _counted(found: pd.DataFrame, where: str) -> str:
    counts, total, own = headline(found), len(found), distinct(found)
    tested = sum(int(counts[verdict]) for verdict in (SUPPORTED, CONTRADICTED, INCONCLUSIVE))
    untrained = int((own["verdict"].isin([SUPPORTED, CONTRADICTED]) & own["p"].isna()).sum())
    rest = f"{counts[SUPPORTED]} supported, {counts[CONTRADICTED]} contradicted, {counts[INCONCLUSIVE]} inconclusive"
    again = f"; {total - len(own)} more {'is' if total - len(own) == 1 else 'are'} decided by a comparison of these" if total > len(own) else ""
    return (
        f"Of {total} claims of the four papers, {tested} were tested with {where} ({untrained} of them by counting or algebra): {rest}{again}; "
        f"of {counts[NO_PREMISE]} the premise is not met, {counts[NOT_RUN]} are not run and {counts[CANNOT]} cannot be tested there."
    )


def _came_out(found: pd.DataFrame) -> str:
    own = distinct(found)
    sure = own[own["verdict"].isin([SUPPORTED, CONTRADICTED]) & own["p"].notna()]
    sure = sure.assign(beside=~is_points(sure)).sort_values(["beside", "p_holm"])  # what concerns mIoU first
    if sure.empty:
        return "After correction for their number, no claim that needs training is supported or contradicted."
    named = [f"{one['id']} is {one['verdict']} ({one['comparison']}: {numbers(one)})" for _, one in sure.head(NAMED).iterrows()]
    more = f"; and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
    return "After correction for their number, " + "; ".join(named) + more + "."


def _unsaid(found: pd.DataFrame) -> str:
    points = found[is_points(found) & found["low"].notna()]
    if points.empty:
        return "Without two seeds of both sides of a comparison nothing can be said of any difference in mIoU."
    largest = points.loc[points["effect"].abs().idxmax()]
    smallest = points["smallest"].median()
    few = "" if largest["n"] >= HEADLINE_SEEDS else f", which takes {HEADLINE_SEEDS} seeds before it is worth a headline"
    return (
        f"The largest difference is that of {largest['id']} ({largest['comparison']}: {numbers(largest)}){few}; half of all comparisons "
        f"could see no effect below {smallest:.1f} points (power 0.8), so smaller ones, and the papers' own networks, data and lengths, are beyond what this shows."
    )
