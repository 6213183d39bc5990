"""Claims in words: the table of the page, its coverage, and three sentences that a sceptic would sign."""

from __future__ import annotations

import math

import pandas as pd

from segkd.analysis.forest import numbers
from segkd.study.claims import CANNOT, CONTRADICTED, HEADLINE_SEEDS, INCONCLUSIVE, NOT_RUN, SUPPORTED, VERDICTS, is_points

PAPER_NAMES = {"lad": "LAD", "fakd": "FAKD", "hwd": "HWD", "rdd": "RDD", "all": "across papers"}
NAMED = 3  # claims that a sentence names
MARKS = {SUPPORTED: "●", CONTRADICTED: "✖", INCONCLUSIVE: "■", NOT_RUN: "◇", CANNOT: "–"}
COLOURS = {SUPPORTED: "#00735a", CONTRADICTED: "#b34700"}


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


def _evidence(one: dict) -> list[str]:
    """Effect, its interval over images, p, how many comparisons point the claim's way, the reason and the note."""
    effect = "" if math.isnan(one["effect"]) else f"{one['comparison']}: {numbers(one)}"
    images = "" if math.isnan(one["image_low"]) else f"over images {one['image_low']:+.1f} to {one['image_high']:+.1f}".replace("-", "−")
    p = "" if math.isnan(one["p"]) else f"p = {one['p']:.3f}, corrected {one['p_holm']:.3f}"
    agree = f"{one['agree']} of {one['measured']} measured comparisons point the claim's way" if one["comparisons"] > 1 else ""
    return [effect, images, p, _sentence(agree), _sentence(one["reason"]), one["note"]]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def coverage(found: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each paper have which verdict, with sums; ``tested`` is the first three together."""
    counts = pd.crosstab(found["paper"], found["verdict"]).reindex(index=list(PAPER_NAMES), columns=list(VERDICTS), fill_value=0)
    counts.index = list(PAPER_NAMES.values())
    counts.loc["all"] = counts.sum()
    counts.insert(0, "tested", counts[[SUPPORTED, CONTRADICTED, INCONCLUSIVE]].sum(axis=1))
    counts.insert(0, "claims", counts[["tested", NOT_RUN, CANNOT]].sum(axis=1))
    return counts.rename_axis("paper", axis=0).rename_axis(None, axis=1).reset_index()


def families(found: pd.DataFrame) -> str:
    """The families of the correction, each with how many of its claims had a p value, as one line of text."""
    tested = found[found["p"].notna()].groupby("family").size()
    return ", ".join(f"{family} ({count})" for family, count in tested.items()) or "none: no claim has an interval yet"


def drawn(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `claims.frame` that have an effect, as `forest` takes them."""
    chosen = found[found["effect"].notna()]
    return chosen.assign(group=chosen["paper"].map(PAPER_NAMES), label=chosen["id"] + "  " + chosen["comparison"])


def headline(found: pd.DataFrame) -> dict[str, str]:
    """How many claims came out how, for the overview."""
    counts = found["verdict"].value_counts()
    return {verdict: str(int(counts.get(verdict, 0))) for verdict in VERDICTS}


def sceptic(found: pd.DataFrame, profile: str, dataset: str) -> list[str]:
    """Three sentences from `claims.frame` (or its CSV): how many claims were tested with a profile on a data set, which
    came out how, and what cannot be said."""
    return [_counted(found, f"{profile} on {dataset}"), _came_out(found), _unsaid(found)]


def plain(text: str) -> str:
    """Text with what Markdown or HTML would read as markup made harmless."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _counted(found: pd.DataFrame, where: str) -> str:
    counts, total = headline(found), len(found)
    tested = total - int(counts[NOT_RUN]) - int(counts[CANNOT])
    untrained = int((found["verdict"].isin([SUPPORTED, CONTRADICTED]) & found["p"].isna()).sum())
    rest = f"{counts[SUPPORTED]} supported, {counts[CONTRADICTED]} contradicted, {counts[INCONCLUSIVE]} inconclusive"
    return (
        f"Of {total} claims of the four papers, {tested} were tested with {where} "
        f"({untrained} of them by counting or algebra): {rest}; {counts[NOT_RUN]} are not run and {counts[CANNOT]} cannot be tested there."
    )


def _came_out(found: pd.DataFrame) -> str:
    sure = found[found["verdict"].isin([SUPPORTED, CONTRADICTED]) & found["p"].notna()]
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
    half = ((points["high"] - points["low"]) / 2).median()
    few = "" if largest["n"] >= HEADLINE_SEEDS else f", which takes {HEADLINE_SEEDS} seeds before it is worth a headline"
    return (
        f"The largest difference is that of {largest['id']} ({largest['comparison']}: {numbers(largest)}){few}; half of all intervals "
        f"reach more than {half:.1f} points to either side, so smaller effects, and the papers' own networks, data and lengths, are beyond what this shows."
    )
