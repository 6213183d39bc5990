"""The whole path at the smallest scale: train, run every notebook, render, link; then do nothing."""

import json
import re
import shutil

import pytest

from segkd.config import ROOT
from segkd.study.numbers.frozen import altered
from segkd.study.report import rendering
from segkd.study.report.page_size import LIMIT
from segkd.study.report.readme import BEGIN, END, results_block
from segkd.study.report.reproduce import NOTEBOOKS, reproduce


@pytest.fixture(scope="module")
def smoke(shared_runs):
    """A smoke study in a folder of its own: (first page, printed state before, the module's folder)."""
    folder = ROOT / "reports" / "smoke-scenes"
    shutil.rmtree(folder, ignore_errors=True)
    return reproduce("smoke", "scenes"), folder


def test_every_notebook_becomes_a_page(smoke):
    index, folder = smoke
    assert index == folder / "index.html"
    text = index.read_text()
    for name, label in NOTEBOOKS.items():
        page = folder / f"{name.split('/')[-1]}.html"
        html = page.read_text()
        assert f'href="{page.name}"' in text and label in text
        assert "<img" in html and "Traceback" not in html and html.count("<script") == (3 if page.stem == "look" else 1) and len(html.encode()) <= LIMIT
        assert not re.search(r'<(?!a )[^>]*(src|href)="https?:', html), "a page must open offline"
    assert not list(folder.rglob("*.failed.ipynb"))


def test_first_page_has_thumbnails_and_numbers(smoke):
    text = smoke[0].read_text()
    assert len(re.findall(r'class="thumb"><img alt="" src="data:image/(?:webp|svg\+xml);base64', text)) == len(NOTEBOOKS)
    assert "one run" in text and "Its numbers mean nothing" in text
    assert "data fingerprint" in text and "training steps took" in text and "<h3>What is missing</h3>" not in text


def test_results_table_names_a_run_for_every_number(smoke):
    import pandas as pd

    results = pd.read_csv(smoke[1] / "results.csv")
    assert {"all", "lad", "fakd", "hwd", "rdd"} == set(results["paper"]) and results["run"].notna().all()
    assert results["value"].notna().all() and (results["split"] == "test").all()
    assert json.loads((smoke[1] / "study.json").read_text())["profile"] == "smoke"
    assert altered(smoke[1]) == []


def test_called_again_it_trains_and_runs_nothing(smoke, monkeypatch, capsys):
    monkeypatch.setattr(rendering, "_side_by_side", lambda what, task, items: what == "notebook" and items and pytest.fail("run again"))
    stamps = {p: p.stat().st_mtime_ns for p in smoke[1].glob("*.html") if p.name != "index.html"}
    reproduce("smoke", "scenes")
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert re.search(r"^0 of \d+ runs to train", capsys.readouterr().out, re.MULTILINE)


WIDE = """[...document.querySelectorAll('main *')].filter(e => {
  for (let up = e; up; up = up.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(up).overflowX) && up !== document.body) return false;
  return e.getBoundingClientRect().right > innerWidth + 1;
}).map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40))"""
EMPTY = "[...document.images].filter(i => i.complete && !i.naturalWidth && i.loading !== 'lazy').length"


def test_pages_in_a_browser(smoke, browser):
    with browser() as page:
        for name in ("index", *(name.split("/")[-1] for name in NOTEBOOKS)):
            for width in (1200, 400):
                page.resize(width, 800)
                page.open(f"file://{smoke[1]}/{name}.html")
                assert page.js("document.scrollingElement.scrollWidth") <= width, f"{name} scrolls sideways at {width}"
                assert page.js(WIDE) == [], f"{name} at {width}"
                assert page.js(EMPTY) == 0, f"{name} has an empty picture"


def test_first_page_searches_and_turns_dark(smoke, browser):
    with browser() as page:
        page.open(f"file://{smoke[0]}")
        page.js("document.getElementById('query').focus()")
        page.ask("Input.insertText", text="layercam")
        found = page.js("[...document.querySelectorAll('#found a')].map(a => a.getAttribute('href'))")
        assert found and any(link.startswith("shortcut_layercam.html") for link in found)
        assert page.js("document.querySelectorAll('#found mark').length") >= len(found) - 1
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.js(colour)
        page.js("document.getElementById('theme').click()")
        assert page.js(colour) != light
        page.open(f"file://{smoke[1]}/hwd.html")
        assert page.js(colour) != light, "the choice is kept for all pages"
        assert page.js("document.querySelectorAll('td[title*=\"-s0-\"]').length") > 0, "numbers carry their runs"


def test_readme_block_is_what_the_committed_tables_say():
    text = (ROOT / "README.md").read_text()
    assert text.split(BEGIN, 1)[1].split(END, 1)[0] == "\n" + results_block()
