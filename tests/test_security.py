"""Nothing read from a file is run, nothing leaves its folder, no text becomes markup: read from the syntax trees, and tried."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("segkd", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
BOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
FORBIDDEN = set(
    "eval exec compile __import__ os.system os.popen tempfile.mktemp yaml.load yaml.load_all yaml.full_load "
    "yaml.unsafe_load pickle.load pickle.loads pickle.Unpickler pickle.dump pickle.dumps marshal.load marshal.loads "
    "shelve.open joblib.load dill.load dill.loads cloudpickle.load cloudpickle.loads pandas.read_pickle "
    "subprocess.getoutput subprocess.getstatusoutput torch.hub.load torch.package.PackageImporter "
    "xml.etree.ElementTree.parse xml.etree.ElementTree.fromstring shutil.unpack_archive ssl._create_unverified_context".split()
)
NEEDS_TIMEOUT = ("urllib.request.urlopen", "requests.", "httpx.", "socket.create_connection")


def names_of(module: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``np`` numpy, ``load`` torch.load."""
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def why_unsafe(call: ast.Call, names: dict[str, str]) -> str | None:
    """Why a call is not allowed, if it is not."""
    first, dot, rest = ast.unparse(call.func).partition(".")
    function = names.get(first, first) + dot + rest
    given = {k.arg: getattr(k.value, "value", ...) for k in call.keywords}  # only a literal counts
    last = function.rpartition(".")[2]
    if function in FORBIDDEN:
        return function
    if function == "torch.load" and given.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if "allow_pickle" in given and given["allow_pickle"] is not False:
        return "allow_pickle"
    if "shell" in given and given["shell"] is not False:
        return "a shell"
    if "verify" in given and given["verify"] is False:
        return "a certificate not verified"
    if last in ("extract", "extractall") and given.get("filter") != "data":
        return "an archive unpacked without filter='data'"
    if function.startswith(NEEDS_TIMEOUT) and given.get("timeout") is None:
        return "a request without a timeout"
    return None


def unsafe_calls(text: str) -> list[tuple[int, str]]:
    module = ast.parse(text)
    names = names_of(module)
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    return [(call.lineno, reason) for call in calls if (reason := why_unsafe(call, names))]


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_unsafe_call(path):
    assert not unsafe_calls(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_unsafe_call_in_a_notebook(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*"".join(cell["source"]).splitlines(), ""]]
    assert not [line for line in lines if line.lstrip().startswith("!")], "a shell command"
    assert not unsafe_calls("\n".join("pass" if line.startswith("%") else line for line in lines))


@pytest.mark.parametrize("code, allowed", [
    ("torch.load(f)", False), ("torch.load(f, weights_only=False)", False), ("torch.load(f, weights_only=True)", True),
    ("torch.load(f, weights_only=flag)", False), ("import torch as t\nt.load(f)", False),
    ("from torch import load\nload(f)", False), ("from torch import load as l\nl(f, weights_only=True)", True),
    ("np.load(f, allow_pickle=True)", False), ("np.load(f, allow_pickle=flag)", False), ("np.load(f)", True),
    ("model.eval()", True), ("eval(text)", False), ("exec(text)", False), ("ast.literal_eval(text)", True),
    ("yaml.load(f)", False), ("from yaml import load\nload(f)", False), ("yaml.safe_load(f)", True),
    ("import pickle as p\np.loads(b)", False), ("from pickle import Unpickler\nUnpickler(f)", False),
    ("import pandas as pd\npd.read_pickle(f)", False), ("os.system(c)", False), ("from os import system\nsystem(c)", False),
    ("subprocess.run(c, shell=True)", False), ("subprocess.run(c, shell=s)", False), ("subprocess.run(c)", True),
    ("tempfile.mktemp()", False), ("tempfile.mkdtemp()", True), ("archive.extractall(p)", False),
    ("archive.extractall(p, filter='data')", True), ("archive.extract(m, p, filter='fully_trusted')", False),
    ("from urllib.request import urlopen\nurlopen(u)", False), ("import urllib.request\nurllib.request.urlopen(u, timeout=9)", True),
    ("requests.get(u)", False), ("requests.get(u, timeout=None)", False), ("requests.get(u, timeout=9)", True),
    ("requests.get(u, timeout=9, verify=False)", False),
])
def test_the_check_sees(code, allowed):
    assert (not unsafe_calls(code)) == allowed


# What could become markup: the names of classes and data sets, of runs and files, and what a cell prints.
ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)>'
CELLS = """
import sys, warnings
import pandas as pd
from IPython.display import HTML, Markdown, display
from segkd.analysis.variants import variants_table
from segkd.study.numbers.study import as_table
attack = ATTACK
display(as_table({"class " + attack: attack, "run": "../" + attack}))
frame = pd.DataFrame({"class": [attack], "row": [attack], "iou": [0.5]})
display(frame)
display(frame.pivot_table(index="class", columns="row", values="iou"))
frame.pivot_table(index="class", columns="row", values="iou").style.format("{:.1f}").format_index(escape="html")
---
columns = {"method": [attack], "difference": ["a"], "default": [attack], "other": ["b"], "loss ratio": [1.0],
           "gradient ratio": [1.0], "gradient cosine": [1.0], "source": [attack]}
variants_table(pd.DataFrame(columns))
---
print(attack)
print(attack, file=sys.stderr)
warnings.warn(attack)
display(Markdown("Class " + attack + " and [a](javascript:alert(1))"))
---
import matplotlib.pyplot as plt
plt.title(attack); plt.plot([1]); plt.legend([attack]); plt.show()
---
attack
---
raise ValueError(attack)
"""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> tuple[str, str]:
    """A page and an overview, through the report's own code, of a notebook whose names and outputs are attacks."""
    from nbclient import NotebookClient
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    from segkd.study.report import notebooks as report
    from segkd.study.report.overview import Overview, Page, build_index
    from segkd.study.report.pages import Link

    folder = tmp_path_factory.mktemp("attacked")
    sources = CELLS.replace("attack = ATTACK", f"attack = {ATTACK!r}").split("---\n")
    cells = [new_markdown_cell(f"# Title {ATTACK}\n\nText {ATTACK}\n\n## Part {ATTACK}\n\n## B\n\n## C")]
    book = new_notebook(cells=[*cells, *map(new_code_cell, sources)])
    with report._kernel_of_this_python():
        NotebookClient(book, allow_errors=True, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    assert [o.evalue for o in outputs if o.output_type == "error"] == [ATTACK], "only the last cell fails"
    write(book, folder / "attack.ipynb")
    html = report.render(folder / "attack.ipynb", folder / "attack.html", [Link(ATTACK, "index.html", ATTACK)])
    facts = {"data": ATTACK, "seeds": [ATTACK], ATTACK: 1}
    table = f"<table><tr><td title='{ATTACK}'>{ATTACK}</td></tr></table>"
    overview = Overview(ATTACK, ATTACK, facts, table, notes=[ATTACK], banners=[ATTACK], provenance=facts)
    return html.read_text(encoding="utf-8"), build_index(folder, [Page(html, ATTACK)], overview).read_text(encoding="utf-8")


@pytest.mark.parametrize("which", [0, 1], ids=["page", "overview"])
def test_no_attack_becomes_markup(attacked, which):
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(attacked[which], "html.parser")
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    scripts = [script.extract() for script in soup.find_all("script")]
    running = [script.string for script in scripts if script.get("type") != "application/json"]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running] == allowed
    assert len(running) == 1 + which and "alert" not in "".join(running)
    elements = soup.find_all(True)
    assert not {"script", "iframe", "object", "embed", "svg"} & {e.name for e in elements}
    attributes = [(name, str(value)) for element in elements for name, value in element.attrs.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [value for name, value in attributes if name in ("href", "src") and value.lower().startswith("javascript")]
    assert all(value.startswith("data:image/") for name, value in attributes if name == "src")


def test_attacks_stay_readable_text(attacked):
    """Tables of facts, results and classes, printed text, values and errors show the words as they are."""
    from bs4 import BeautifulSoup

    page, overview = (BeautifulSoup(text, "html.parser") for text in attacked)
    cells = [cell.get_text() for cell in page.find_all(["td", "th"])]
    assert sum(ATTACK in cell for cell in cells) >= 9, cells
    printed = [block.get_text() for block in page.find_all("pre", class_="out")]
    assert sum(ATTACK in text for text in printed) >= 4
    assert ATTACK in overview.get_text() and ATTACK in overview.title.get_text()


@pytest.mark.parametrize("name", ["../../x", "..", ".", "", "a/b", "/etc", "a\\b", "A", "a b", "a\0b", "-x", ".hidden", "x\n"])
def test_names_of_runs_stay_below_the_root(runs, tmp_path, name):
    from segkd.registry import UserError
    from segkd.runs import load_run

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="the id of a run has only"):
        load_run(name)
