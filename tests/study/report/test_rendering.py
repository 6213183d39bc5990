"""Pages made without the runs: full of numbers, with gaps, kept or left out; what is fresh is not made again."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from segkd.study.report import rendering
from segkd.study.report.rendering import Making, make_pages

NEEDS = "from segkd.registry import UserError\nraise UserError('the network is not here; `make reproduce` trains it')"
KEEPS = "import os, pathlib\nfolder = pathlib.Path(os.environ['SEGKD_FIGURES'])\nfolder.mkdir(exist_ok=True)\n(folder / 'a.csv').write_text('x')"


def notebook(folder, name: str, *cells: str, headline: str = "{'score': '35.1'}") -> None:
    made = [new_markdown_cell(f"# {name}: a page\n\nWhat it shows."), new_code_cell("PROFILE = 'quick'", metadata={"tags": ["parameters"]})]
    made += [*map(new_code_cell, cells), new_code_cell(headline, metadata={"tags": ["headline"]})]
    nbformat.write(new_notebook(cells=made), folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(making, pages, notes, sources) of four notebooks; of one a fuller page was there."""
    root = tmp_path_factory.mktemp("project")
    sources, folder = root / "notebooks", root / "reports" / "smoke-scenes"
    sources.mkdir()
    folder.mkdir(parents=True)
    (root / "pyproject.toml").touch()
    notebook(sources, "numbers", KEEPS, "print(PROFILE)")
    notebook(sources, "gaps", f"{NEEDS}\nmodel = 1", "model", "print('goes on')")
    notebook(sources, "network", NEEDS.replace("raise", "model = 0\nraise"), headline=NEEDS)
    notebook(sources, "kept", NEEDS)
    meta = '<meta name="segkd" content=\'{"numbers": [["share", "0.95"]], "gaps": 0, "results": "old"}\'>'
    (folder / "kept.html").write_text(f"<html><head>{meta}<title>kept: a page</title></head><main><h1>k</h1></main></html>")
    (folder / "network.html").write_text('<html><head><meta name="segkd" content=\'{"numbers": [], "gaps": 2, "results": ""}\'></head></html>')
    labels = {"numbers": "Numbers", "gaps": "Gaps", "network": "Network", "kept": "Kept"}
    making = Making(folder, labels, {"PROFILE": "smoke"}, "digest", "new", gaps=True, banners=("results.csv was altered",), notebooks=sources)
    return making, *make_pages(making)


def test_page_of_numbers_is_whole_and_its_figures_are_kept_as_data(made):
    html = made[0].html("numbers").read_text()
    assert "smoke\n" in html and 'class="gap"' not in html and (made[0].folder / "figures" / "a.csv").read_text() == "x"
    assert html.count('role="alert"') == 1 and "results.csv was altered" in html


def test_gaps_are_said_and_the_page_goes_on(made):
    html = made[0].html("gaps").read_text()
    assert html.count('class="gap"') == 2 and "Needs what the cell above could not make" in html and "goes on" in html
    assert "NameError" not in html and "<code>make reproduce</code>" in html


def test_page_about_what_is_not_here_is_left_out_of_the_bar_too(made):
    making, pages, notes = made
    assert [page.label for page in pages] == ["Numbers", "Gaps", "Kept"] and not making.html("network").exists()
    assert 'href="network.html"' not in making.html("numbers").read_text() and 'href="kept.html"' in making.html("numbers").read_text()
    assert notes[1] == "**Network**: left out: the network is not here; `make reproduce` trains it"


def test_fuller_page_is_kept_and_said_to_be_older(made):
    making, _, notes = made
    assert "0.95" in making.html("kept").read_text() and notes[2].startswith("**Kept**: the page that was here is kept, **made of other")
    assert notes[0].startswith("**Gaps**: 2 places are empty: ") and len(notes) == 3


def test_made_again_nothing_is_run_and_the_same_is_said(made, monkeypatch):
    monkeypatch.setattr(rendering, "_side_by_side", lambda what, task, items: what == "notebook" and items and pytest.fail(f"run again: {items}"))
    assert make_pages(made[0]) == made[1:]


def test_an_error_is_no_gap(tmp_path):
    notebook(tmp_path, "wrong", "undefined_name")
    making = Making(tmp_path, {"wrong": "Wrong"}, {}, "", gaps=True, notebooks=tmp_path)
    with pytest.raises(rendering.report.ReportError, match="NameError: name 'undefined_name' is not defined"):
        make_pages(making)


def test_without_gaps_bad_input_stops_the_page(tmp_path):
    notebook(tmp_path, "needs", NEEDS)
    with pytest.raises(rendering.report.ReportError, match="UserError: the network is not here"):
        make_pages(Making(tmp_path, {"needs": "Needs"}, {}, "", notebooks=tmp_path))
