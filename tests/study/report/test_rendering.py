"""Pages made without the runs: full of numbers, with gaps, with kept pictures or left out; what is fresh is not run again."""

from __future__ import annotations

from dataclasses import replace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from segkd.study.report import rendering
from segkd.study.report.kept import said_in
from segkd.study.report.rendering import Making, make_pages

NEEDS = "from segkd.registry import UserError\nraise UserError('the network is not here; `make reproduce` trains it')"
KEEPS = "import os, pathlib\nfolder = pathlib.Path(os.environ['SEGKD_FIGURES'])\nfolder.mkdir(exist_ok=True)\n(folder / 'a.csv').write_text('x')"


def notebook(folder, name: str, *cells: str, headline: str = "{'score': '35.1'}") -> None:
    made = [new_markdown_cell(f"# {name}: a page\n\nWhat it shows."), new_code_cell("PROFILE = 'quick'", metadata={"tags": ["parameters"]})]
    made += [*map(new_code_cell, cells), new_code_cell(headline, metadata={"tags": ["headline"]})]
    nbformat.write(new_notebook(cells=made), folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(making, pages, notes, sources) of three notebooks."""
    root = tmp_path_factory.mktemp("project")
    sources, folder = root / "notebooks", root / "reports" / "smoke-scenes"
    sources.mkdir()
    folder.mkdir(parents=True)
    (root / "pyproject.toml").touch()
    notebook(sources, "numbers", KEEPS, "print(PROFILE)")
    notebook(sources, "gaps", f"{NEEDS}\nmodel = 1", "model", "print('goes on')")
    notebook(sources, "network", NEEDS.replace("raise", "model = 0\nraise"), headline=NEEDS)
    labels = {"numbers": "Numbers", "gaps": "Gaps", "network": "Network"}
    making = Making(folder, labels, {"PROFILE": "smoke"}, "study", "digest", gaps=True, banners=("results.csv was altered",), notebooks=sources)
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
    assert [page.label for page in pages] == ["Numbers", "Gaps"] and not making.html("network").exists()
    assert 'href="network.html"' not in making.html("numbers").read_text()
    assert notes[1] == "**Network**: left out: the network is not here; `make reproduce` trains it"


def test_what_is_empty_is_said_with_the_remedy(made):
    assert made[2][0] == "**Gaps**: 2 places are empty: the network is not here; `make reproduce` trains it" and len(made[2]) == 2


def test_made_again_nothing_is_run_and_the_same_is_said(made, monkeypatch):
    monkeypatch.setattr(rendering, "_side_by_side", lambda what, task, items: what == "notebook" and items and pytest.fail(f"run again: {items}"))
    assert make_pages(made[0]) == made[1:]


def test_what_networks_showed_is_kept_when_they_are_gone(tmp_path, monkeypatch):
    """A page is made with a network, then without, twice: its picture and headline stay, all else is new; changed code is said."""
    here = "import os\nfrom segkd.registry import UserError\nif not os.environ.get('NETWORK'):\n    raise UserError('no network')\n"
    show = "from IPython.display import HTML\nHTML('<b>&lt;what the network sees</b>')"
    making = Making(tmp_path, {"page": "Page"}, {}, "study", "", gaps=True, notebooks=tmp_path)
    texts = []
    for network, more, digest in (("1", "", "a"), ("", "", "b"), ("", "  # said otherwise", "c"), ("1", "", "d")):
        monkeypatch.setenv("NETWORK", network)
        cells = [new_markdown_cell(f"# Page: {digest}"), new_code_cell("PROFILE = ''", metadata={"tags": ["parameters"]}), new_code_cell(here + "model = 1", id="sets"), new_code_cell(here + show + more, id="sees")]
        cells += [new_code_cell(f"'made {digest}'"), new_code_cell(here + "{'seen': '7'}", id="head", metadata={"tags": ["headline"]})]
        nbformat.write(new_notebook(cells=cells), tmp_path / "page.ipynb")
        pages, notes = make_pages(replace(making, digest=digest))
        texts.append(making.html("page").read_text())
        assert len(pages) == 1 and notes == ([] if network else ["**Page**: 3 places are kept from an earlier rendering: no network"])
    for text, kept, changed, digest in zip(texts, (0, 2, 2, 0), (0, 0, 1, 0), "abcd"):
        assert text.count("<b>&lt;what the network sees</b>") == 1 and f"made {digest}" in text and said_in(text)["numbers"] == [["seen", "7"]]
        assert text.count('<p class="kept">') == kept and text.count("Its code has changed since.") == changed and 'class="gap"' not in text
    monkeypatch.setenv("NETWORK", "")
    assert make_pages(replace(making, of="another", digest="e")) == ([], ["**Page**: left out: no network"]) and not making.html("page").exists()


def test_an_error_is_no_gap(tmp_path):
    notebook(tmp_path, "wrong", "undefined_name")
    making = Making(tmp_path, {"wrong": "Wrong"}, {}, "", "", gaps=True, notebooks=tmp_path)
    with pytest.raises(rendering.report.ReportError, match="NameError: name 'undefined_name' is not defined"):
        make_pages(making)


def test_without_gaps_bad_input_stops_the_page(tmp_path):
    notebook(tmp_path, "needs", NEEDS)
    with pytest.raises(rendering.report.ReportError, match="UserError: the network is not here"):
        make_pages(Making(tmp_path, {"needs": "Needs"}, {}, "", "", notebooks=tmp_path))
