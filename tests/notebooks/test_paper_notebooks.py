"""The four paper notebooks as texts to learn from: thin cells, a section for each printed table, three questions."""

import ast
import json
import re

import pandas as pd
import pytest

from segkd.config import ROOT
from segkd.study.report.notebooks import parameters_of
from segkd.study.report.pages import NOTEBOOK_LINK
from segkd.study.tables.papers import PAPERS, paper_tables

FOLDER = ROOT / "notebooks" / "papers"
PARAMETERS = {"PROFILE", "DATASET", "SEEDS", "METHODS", "TABLES", "DEVICES", "TEACHER"}
ROMAN = {"I": "1", "II": "2", "III": "3"}


def cells(paper):
    """(kind, source, tags) of each cell."""
    book = json.loads((FOLDER / f"{paper}.ipynb").read_text(encoding="utf-8"))
    return [(c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])) for c in book["cells"]]


def code(paper):
    return "\n".join(source for kind, source, _ in cells(paper) if kind == "code")


def printed(paper):
    """Keys of the tables that the paper prints, and of what LAD prints in its text, from the papers' numbers."""
    frame = pd.read_csv(ROOT / "data" / "papers" / "reported.csv", dtype=str, keep_default_na=False)
    numbers = [t.split()[1] for t in frame.loc[frame["paper"] == paper, "table"].unique() if t.startswith("Table ")]
    return {f"table{ROMAN.get(n, n)}" for n in numbers} | ({"dinov2"} if paper == "lad" else set())


def test_the_papers_print_twenty_six_tables():
    assert {paper: len(printed(paper) - {"dinov2"}) for paper in PAPERS} == {"lad": 9, "fakd": 5, "hwd": 3, "rdd": 9}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_section_for_every_printed_table(paper):
    found = cells(paper)
    for key in printed(paper):
        shows = [i for i, (kind, source, _) in enumerate(found) if kind == "code" and f'study.table("{key}"' in source]
        assert len(shows) == 1, f"{key} is shown {len(shows)} times"
        kind, text, _ = found[shows[0] - 1]
        number = key.removeprefix("table")
        roman = {v: k for k, v in ROMAN.items()}.get(number, number) if paper == "hwd" else number
        heading = "### In the text:" if key == "dinov2" else f"### Table {roman}:"
        assert kind == "markdown" and text.startswith(heading), f"{key}: {text[:40]}"
        assert "**In the paper.**" in text and "**Our rows.**" in text


@pytest.mark.parametrize("paper", PAPERS)
def test_cells_are_thin(paper):
    for kind, source, tags in cells(paper):
        if kind != "code" or "parameters" in tags:
            continue
        tree = ast.parse(source)
        made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.With, ast.Try)
        heavy = [node for node in ast.walk(tree) if isinstance(node, made)]
        loops = all(isinstance(node, ast.For) and len(node.body) == 1 for node in heavy)
        assert loops, f"{source[:60]}: functions belong in the package"
        statements = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        shown = [node for node in statements if isinstance(node, ast.Expr)]
        assert len(statements) <= 8 and len(shown) <= 1, f"{source[:60]}: one figure or table a cell"
        assert not shown or statements[-1] is shown[0]


@pytest.mark.parametrize("paper", PAPERS)
def test_parameters_are_those_of_every_page(paper):
    assert PARAMETERS <= set(parameters_of(FOLDER / f"{paper}.ipynb"))
    opened = next(source for _, source, _ in cells(paper) if "open_study(" in source)
    assert all(re.search(rf"\b{name}\b", opened) for name in parameters_of(FOLDER / f"{paper}.ipynb"))
    assert f'open_study("{paper}"' in opened


@pytest.mark.parametrize("paper", PAPERS)
def test_the_order_of_a_lesson(paper):
    text = "\n".join(source for kind, source, _ in cells(paper) if kind == "markdown")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    steps = [h for h in headings if h.startswith("Step ")]
    assert [h.split(":")[0] for h in steps] == [f"Step {n}" for n in range(1, len(steps) + 1)] and len(steps) >= 3
    wanted = ["The problem", "What is run on this page", *steps, "Paper and code", "Main comparison"]
    wanted += ["Every table of the paper", "The paper's figures", "What came out", "Three questions to try"]
    assert [h for h in headings if h in wanted] == wanted
    assert text.count("$$") >= 2 * 3, "equations on lines of their own"
    assert text.split("## The problem")[1].split("## ")[0].strip().count("\n\n") == 1, "the problem in two paragraphs"


@pytest.mark.parametrize("paper", PAPERS)
def test_three_questions_name_a_cell_that_is_there(paper):
    kind, text, _ = cells(paper)[-1]
    assert kind == "markdown" and text.startswith("## Three questions to try")
    questions = re.findall(r"^\d\. \*\*.*?\?\*\* .*$", text, re.MULTILINE)
    assert len(questions) == 3 and text.count("\n1. ") == text.count("\n3. ") == 1 and "\n4. " not in text
    known, tables = parameters_of(FOLDER / f"{paper}.ipynb"), printed(paper) | set(paper_tables(paper, None))
    for question in questions:
        before, after = question.split("Change", 1)
        assert "Look at" in after, question
        snippets = re.findall(r"`([^`]+)`", after)
        settings = [s for s in snippets if re.fullmatch(r'[A-Z]+ = ".*"', s)]
        for name, value in (s.split(" = ") for s in settings):
            assert name in known and (name != "TABLES" or value.strip('"') in tables), f"{name} = {value}"
        plain = [s.replace("...", "") for s in snippets if s not in settings]
        assert settings or any(part.rstrip("()") in code(paper) for part in plain[:2]), question


@pytest.mark.parametrize("paper", PAPERS)
def test_links_lead_to_notebooks(paper):
    text = "\n".join(source for kind, source, _ in cells(paper) if kind == "markdown")
    targets = re.findall(r"\]\(([^)]+\.ipynb)\)", text)
    assert targets and not [t for t in targets if not (FOLDER / t).resolve().is_file()]


@pytest.mark.parametrize("link, page", [
    ("[a](../analysis/per_class_iou.ipynb)", "[a](per_class_iou.html)"), ("[a](00_tour.ipynb#b)", "[a](00_tour.html#b)"),
    ("[a](x/y-z.ipynb)", "[a](y-z.html)"), ("[a](https://h.org/x.ipynb)", "[a](https://h.org/x.ipynb)"), ("x.ipynb)", "x.ipynb)"),
])  # fmt: skip
def test_links_between_notebooks_are_links_between_pages(link, page):
    assert NOTEBOOK_LINK.sub(r"](\1.html", link) == page


@pytest.mark.parametrize("paper", [p if p == "hwd" else pytest.param(p, marks=pytest.mark.slow) for p in PAPERS])
def test_a_page_without_any_run_says_so_and_does_not_break(paper, tmp_path, monkeypatch):
    """Every cell but the training, as for a reader who asked for another table."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    scope: dict = {}
    for kind, source, tags in cells(paper):
        if kind == "code" and source != "study.run()":
            exec(source, scope)  # noqa: S102  the project's own notebook
            scope |= {"PROFILE": "smoke"} if "parameters" in tags else {}
    assert scope["study"].profile.name == "smoke" and not list(tmp_path.glob("*/result.json"))
