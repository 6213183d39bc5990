"""Report pages from notebooks: run with checked parameters, whole or not at all, and readable without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import re
import resource
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from segkd import cli
from segkd.analysis.figures.look import LOOK
from segkd.fields import check
from segkd.registry import UserError
from segkd.study.report import notebooks as report
from segkd.study.report.pages import Link, beside, menus

PARAMETERS = 'PROFILE = "quick"  # which\nSEEDS = [0, 1]\nALPHA = 0.5\nLIMIT: int = 3\nDEVICES = None'
INTRODUCTION = (
    "# LAD: label-assisted distillation\n\n**Question.** Does $\\tilde y = y + \\alpha\\epsilon$ help a teacher "
    "(Liu et al. 2023)? More words."
)
FORMULA = r"""## Method

$$L = \frac{\tau^2}{C} \sum_{c=1}^{C} \mathrm{KL}(p_c \,\|\, q_c)$$

<script>alert(1)</script>"""
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
TABLE = (
    "import pandas as pd\n"
    "pd.DataFrame({'mIoU': [51.25, 52.5], 'verdict': ['holds', '–']}, index=pd.Index(['CWD', 'LAD'], name='row'))"
)


def visible(page: str) -> str:
    """The page without its folded code."""
    return re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


def write(path: Path, *cells) -> Path:
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    made = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=[new_markdown_cell(INTRODUCTION), parameters, *made]), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """One real run of a notebook with all that a page shows."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    (folder / "notebooks").mkdir()
    cells = [
        new_markdown_cell(FORMULA),
        "import os, sys\nprint(PROFILE, SEEDS, sys.executable, os.getcwd())",
        new_markdown_cell("## Results"), TABLE, FIGURE, new_markdown_cell("## End"),
        "from IPython.display import HTML\nHTML('<b onclick=\"x()\">raw</b><img src=\"http://far.example/a.png\">')",
        "print('<script>alert(2)</script>')",
    ]
    notebook = write(folder / "notebooks" / "lad.ipynb", *cells)
    output = folder / "reports" / "pages" / "lad.ipynb"
    assert report.run_notebook(notebook, output, {"PROFILE": "smoke", "SEEDS": (4,)}) == output
    return output


@pytest.fixture(scope="module")
def page(executed) -> str:
    nav = [Link("Overview", "index.html"), Link("A <& B", "lad.html", "Papers"), Link("Cost", "cost.html")]
    return report.render(executed, executed.parents[1] / "lad.html", nav).read_text(encoding="utf-8")


def test_execution_uses_this_python_the_parameters_and_the_project_root(executed):
    node = nbformat.read(executed, as_version=4)
    text = "".join(o.text for c in node.cells for o in c.get("outputs", []) if o.output_type == "stream")
    assert f"smoke [4] {sys.executable} {executed.parents[2]}" in text
    assert str(executed.parents[2]) not in json.dumps(node.metadata)
    assert sorted(p.name for p in executed.parent.iterdir()) == ["lad.ipynb"]


def test_page_opens_offline_and_holds_nothing_active(page):
    elements = BeautifulSoup(page, "html.parser").find_all(True)
    assert not {"iframe", "link", "object", "embed", "base", "form"} & {e.name for e in elements}
    (script,) = [e for e in elements if e.name == "script"]  # the house's own, which the policy knows by its hash
    digest = base64.b64encode(hashlib.sha256(script.string.encode()).digest()).decode()
    (policy,) = [e["content"] for e in elements if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    attributes = [(name, value) for element in elements for name, value in element.attrs.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for name, value in attributes if name == "src")
    assert not [value for name, value in attributes if "://" in str(value)]
    assert not any("url(" in re.sub(r"url\(data:font/woff2;base64,[\w+/=]+\)", "", style.text) or "@import" in style.text for style in elements if style.name == "style")
    assert "<b>raw</b>" in page and "far.example" not in visible(page)


def test_page_shows_formulas_tables_figures_and_folded_code(page):
    assert page.count("<math") == 2 and "<mfrac>" in page and "$$" not in page
    assert '<td class="num">51.25</td>' in page and "<td>holds</td>" in page
    assert '<th>row</th><th class="num">mIoU</th>' in re.sub(r"\s*\n\s*", "", page)
    assert 'src="data:image/png;base64,' in page and 'alt="Figure: Results"' in page
    assert page.count("<details") == page.count("<details class=") and "<details open" not in page
    assert "parameters (this run)" in page


def test_wide_tables_scroll_in_a_box_that_the_keyboard_reaches(page):
    boxes = BeautifulSoup(page, "html.parser").select("div.scroll")
    assert boxes and all(box["tabindex"] == "0" and box["role"] == "region" and box.table for box in boxes)


def test_page_has_its_title_its_links_and_its_contents(page):
    assert "<title>LAD: label-assisted distillation</title>" in page
    assert 'aria-current="page" href="lad.html">A &lt;&amp; B</a>' in page
    assert [label for label in ("Method", "Results", "End") if f'">{label}</a>' in page] == ["Method", "Results", "End"]
    assert len(page) < 200_000


@pytest.mark.parametrize("parameters, words", [
    ({"PROFIL": "x"}, "did you mean 'PROFILE'"),
    ({"seed": 1}, "did you mean 'SEEDS'"),
    ({"PROFILE": 3}, "PROFILE: expected str, got 3"),
    ({"SEEDS": 3}, "SEEDS: expected list of int"),
    ({"SEEDS": ["a"]}, "SEEDS: expected list of int"),
    ({"LIMIT": 2.5}, "LIMIT: expected int"),
    ({"LIMIT": True}, "LIMIT: expected int"),
])
def test_bad_parameters_are_one_line_before_anything_runs(tmp_path, parameters, words):
    notebook = write(tmp_path / "n.ipynb", "1/0")
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        report.run_notebook(notebook, tmp_path / "out" / "n.ipynb", parameters)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value, default", [(1, 0.5), ((1, 2), [0]), ("x", None), ([1], [])])
def test_fitting_parameters(value, default):
    check(value, report._like(default), "X")


def test_failing_cell_is_named_and_the_old_page_stays(tmp_path):
    notebook = write(tmp_path / "n.ipynb", "x = 1", "# first\nboom(\n  x)\n", "never = 1")
    output = tmp_path / "out" / "n.ipynb"
    output.parent.mkdir()
    output.write_text("old")
    with pytest.raises(report.ReportError) as caught:
        report.run_notebook(notebook, output, {"PROFILE": "smoke"})
    message = str(caught.value)
    assert "cell 4 stopped at `# first`: NameError: name 'boom' is not defined" in message and "\n" not in message
    assert caught.value.partial == output.with_name("n.failed.ipynb")
    assert "NameError" in caught.value.partial.read_text()
    assert output.read_text() == "old"
    again = pickle.loads(pickle.dumps(caught.value))  # errors travel between the processes that make the pages
    assert str(again) == message and again.partial == caught.value.partial
    assert sorted(p.name for p in output.parent.iterdir()) == ["n.failed.ipynb", "n.ipynb"]


def test_a_full_disk_is_one_line_and_the_old_page_stays(tmp_path, monkeypatch, capsys):
    notebook = write(tmp_path / "n.ipynb", "print('x' * 400_000)")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "n.ipynb").write_text("old")
    monkeypatch.setitem(cli.COMMANDS, "report", (lambda: report.run_notebook(notebook, tmp_path / "out" / "n.ipynb", {}), "", {}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # a file may have 300 kB, as on a disk that is full
    try:
        assert cli.main(["report"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err.endswith("segkd: File too large; finished runs and pages are kept: make room, then repeat the command\n")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"n.ipynb": "old"}


def test_dying_kernel_is_an_error_and_success_clears_the_failed_copy(tmp_path):
    output = tmp_path / "o.ipynb"
    notebook = write(tmp_path / "n.ipynb", "import os\nif PROFILE == 'quick': os._exit(1)", "never = 1")
    with pytest.raises(report.ReportError, match="cell 3 stopped at `import os`"):
        report.run_notebook(notebook, output, {})
    assert (tmp_path / "o.failed.ipynb").exists() and not output.exists()
    report.run_notebook(notebook, output, {"PROFILE": "other"}, title="Given")
    assert not (tmp_path / "o.failed.ipynb").exists() and nbformat.read(output, 4).metadata.title == "Given"


def test_kernel_name_in_the_home_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    with report._kernel_of_this_python():
        from jupyter_client.kernelspec import KernelSpecManager

        assert KernelSpecManager().get_kernel_spec("python3").argv[0] == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)


def test_notebooks_without_a_proper_parameters_cell(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("A = 1")]), tmp_path / "n.ipynb")
    with pytest.raises(UserError, match="0 cells are tagged 'parameters'"):
        report.parameters_of(tmp_path / "n.ipynb")
    computed = new_code_cell("A = len('x')", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[computed]), tmp_path / "m.ipynb")
    with pytest.raises(UserError, match="parameter A must be a plain literal"):
        report.parameters_of(tmp_path / "m.ipynb")
    with pytest.raises(UserError, match="no notebook"):
        report.run_notebook(tmp_path / "gone.ipynb", tmp_path / "o.ipynb", {})


def test_stamp_follows_notebook_parameters_and_inputs(tmp_path):
    notebook, made = write(tmp_path / "n.ipynb", "1"), tmp_path / "r" / "n.ipynb"
    first = report.stamp(notebook, {"A": 1, "B": [2]}, ["x", "y"])
    assert first == report.stamp(notebook, {"B": [2], "A": 1}, ["y", "x"])
    assert len({first, report.stamp(notebook, {"A": 2, "B": [2]}, ["x", "y"]), report.stamp(notebook, {}, ["x"])}) == 3
    assert not report.is_fresh(made, first)  # not there yet
    report.run_notebook(notebook, made, {}, stamp=first)
    assert report.is_fresh(made, first)
    write(notebook, "2")
    assert not report.is_fresh(made, report.stamp(notebook, {"A": 1, "B": [2]}, ["x", "y"]))


def test_a_page_with_frames_holds_them_as_data_and_the_script_that_shows_them(tmp_path):
    """Text of the data cannot end its script element; the policy knows the script by its hash."""
    data = {LOOK: {"classes": ["</script><b>"], "palette": [[0, 0, 0]], "frames": []}, "text/plain": "0 frames"}
    node = new_notebook(cells=[new_markdown_cell("# Look"), new_code_cell("look", outputs=[new_output("execute_result", data)])])
    nbformat.write(node, tmp_path / "look.ipynb")
    text = report.render(tmp_path / "look.ipynb", tmp_path / "look.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(text, "html.parser")
    assert soup.select_one("main #look") and json.loads(soup.select_one("#look-data").string)["classes"] == ["</script><b>"]
    hashes = [base64.b64encode(hashlib.sha256(e.string.encode()).digest()).decode() for e in soup.head.find_all("script")]
    assert len(hashes) == 2 and all(f"'sha256-{digest}'" in soup.find("meta", attrs={"http-equiv": True})["content"] for digest in hashes)


def test_pages_know_those_before_and_after_and_their_menus():
    nav = [Link("Overview", "index.html"), Link("LAD", "lad.html", "Papers"), Link("HWD", "hwd.html", "Papers"), Link("Claims", "claims.html")]
    assert [link and link.label for link in beside(nav, "lad.html")] == ["Overview", "HWD"]
    assert [link and link.label for link in beside(nav, "index.html")] == [None, "LAD"]
    assert beside(nav, "claims.html")[1] is None and beside(nav, "other.html") == [None, None]
    assert [(menu["group"], [link["label"] for link in menu["links"]]) for menu in menus(nav, "lad.html")] == [
        ("", ["Overview"]), ("Papers", ["LAD", "HWD"]), ("", ["Claims"])
    ]  # fmt: skip


def test_a_chart_is_a_picture_with_boxes_to_hover_over_and_a_link_to_its_numbers(tmp_path):
    """What a notebook says of its chart stays text: no markup, no address but a file beside the page."""
    said = {"alt": "Dots. <b>", "caption": "CWD & <i>more</i>", "csv": "javascript:alert(1)", "width": 700, "marks": [[10.5, 20, 3, 4, '"><script>alert(1)</script>\nrun-1']]}
    output = new_output("display_data", {"image/svg+xml": "<svg onload='alert(1)'></svg>", "image/png": "eA=="}, metadata={"segkd": said})
    cell = new_code_cell("draw()", outputs=[output], metadata={"tags": ["gains"]})
    page = BeautifulSoup(report.render(write(tmp_path / "a.ipynb", cell), tmp_path / "a.html").read_text(), "html.parser")
    figure = page.select_one("figure#gains.chart")
    assert figure.img["src"].startswith("data:image/svg+xml;base64,") and figure.img["alt"] == said["alt"] and not page.find("svg")
    assert figure.i["title"] == said["marks"][0][4] and figure.i["tabindex"] == "-1" and "left: 10.5%; top: 20.0%" in figure.i["style"]
    assert figure.figcaption.get_text() == "CWD & <i>more</i> Numbers (CSV)" and figure.a["href"] == "./javascript:alert(1)"
