"""The notebooks of `make lab` through papermill: the tour without runs, one's own data from folder to export, and as pages."""

import json

import pytest

from segkd.config import ROOT
from segkd.study.lab.own_data import write_example
from segkd.study.report import notebooks as report


TWO = "pspnet/resnet18,fcn/resnet18"


@pytest.fixture
def executed(runs, tmp_path):
    """A function that runs a notebook and gives its outputs by the source of their cell."""

    def run(name: str, **parameters: object) -> dict[str, list[dict]]:
        path = report.run_notebook(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb", parameters)
        cells = json.loads(path.read_text())["cells"]
        return {"".join(c["source"]): c["outputs"] for c in cells if c["cell_type"] == "code"}

    return run


def output(outputs: dict[str, list[dict]], begins: str) -> dict:
    """What the last output of the cell that begins so holds, by kind."""
    last = next(found for source, found in outputs.items() if source.startswith(begins))[-1]
    return last.get("data") or {"text": "".join(last["text"])}


def test_tour_without_runs_says_what_trains_them(executed, tmp_path):
    outputs = executed("00_tour", PROFILE="smoke")
    for cell in ("if TRAIN:", "explore("):
        assert "`make reproduce PROFILE=smoke`" in "".join(output(outputs, cell)["text/markdown"])
    assert "Nothing of this table is run here" in "".join(output(outputs, 'study.table("main")')["text/html"])
    assert not (tmp_path / "runs").exists(), "nothing is trained unasked"


@pytest.mark.slow
def test_own_data_from_folder_to_export(executed, tmp_path):
    folder = write_example(tmp_path / "mine", {"train": 8, "val": 4, "test": 4})
    outputs = executed("95_your_own_data", PROFILE="smoke", STEPS="", FOLDER=str(folder), METHOD="lad+cwd", DEVICES="cpu", STUDENT=TWO)
    assert "train 8, val 4, test 4 images verified" in output(outputs, "from IPython")["text"]
    assert "Ship the baseline: 4 test images are too few" in "".join(output(outputs, "found =")["text/markdown"])
    files = "".join(output(outputs, "files =")["text/html"])
    assert "student.onnx" in files and "fcn-resnet18.onnx" in files and all(name in files for name in TWO.split(","))
    shown = output(outputs, "explore(")
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(shown)
    html = report.render(tmp_path / "95_your_own_data.ipynb", tmp_path / "page.html").read_text()
    assert shown["image/png"].replace("\n", "")[:2000] in html and html.count("<script") == 1


@pytest.mark.parametrize("name", ["00_tour", "95_your_own_data"])
def test_they_end_with_three_questions(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    questions = text.split("## Three questions to try")[1]
    assert [line[:5] for line in questions.splitlines() if line[:1].isdigit()] == ["1. **", "2. **", "3. **"]
