"""The two notebooks of `make lab`, used in a real browser: run all cells, move a menu, see another picture, no error."""

import os
from pathlib import Path

import pytest

from segkd.study.lab.own_data import write_example

KEEP = os.environ.get("SEGKD_SCREENSHOTS")  # a folder: what the browser showed, to be looked at


def keep(notebook, name: str) -> None:
    """A screenshot on request, at the width of a desk and of a phone."""
    if not KEEP:
        return
    notebook.page.js("jupyterapp.shell.collapseLeft()")
    for width, height in ((1200, 900), (400, 800)):
        notebook.page.resize(width, height)
        notebook.page.js("new Promise(done => setTimeout(done, 1500))")
        notebook.page.js("document.querySelector('.widget-slider')?.scrollIntoView()")
        notebook.page.screenshot(Path(KEEP) / f"{name}-{width}.png")
    notebook.page.resize(1200, 900)


@pytest.mark.slow
def test_tour_in_jupyterlab(open_notebook):
    parameters = {"PROFILE": "smoke", "METHODS": "baseline,cwd", "TABLES": "main", "TRAIN": True}
    with open_notebook("00_tour.ipynb", **parameters) as notebook:
        notebook.run_all(300)
        assert notebook.errors() == []
        first = notebook.show("explore(")
        keep(notebook, "tour")
        notebook.page.js("document.querySelector('.widget-slider .noUi-handle').focus()")
        notebook.page.press("ArrowRight", 39)
        second = notebook.changed(first)
        assert notebook.page.js("document.querySelector('.widget-slider .widget-readout').textContent") == "2"
        notebook.choose("LayerCAM of", 0)
        third = notebook.changed(second)
        notebook.choose("B: network", 1)
        fourth = notebook.changed(third)
        notebook.page.press("ArrowLeft", 37)
        assert len({first, second, third, fourth, notebook.changed(fourth)}) == 5
        assert notebook.errors() == []
        assert "drawn in" in notebook.page.js("document.querySelector('.widget-html:last-child').textContent")


@pytest.mark.slow
def test_own_data_in_jupyterlab(open_notebook, tmp_path):
    folder = write_example(tmp_path / "own", {"train": 8, "val": 4, "test": 4})
    with open_notebook("95_your_own_data.ipynb", PROFILE="smoke", STEPS="", FOLDER=str(folder)) as notebook:
        notebook.run_all(400)
        assert notebook.errors() == []
        first = notebook.show("explore(")
        keep(notebook, "own-data")
        notebook.page.js("document.querySelector('.widget-slider .noUi-handle').focus()")
        notebook.page.press("ArrowRight", 39)
        assert notebook.changed(first) and notebook.errors() == []
        assert list((tmp_path / "runs").glob("*/student.onnx"))
