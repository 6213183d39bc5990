"""The shape of the house, read from the syntax trees: imports go down, files stay short."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "segkd"
FLOORS = [
    {"prediction", "config", "device", "fields", "registry", "metrics", "download", "decode", "ids"},
    {"models", "losses", "data"},
    {"train"},
    {"runs"},
    {"study", "analysis", "formats", "export", "predict", "replay", "doctor", "run_list"},
    {"cli"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
ROOMS = ("gaps", "execute", "tables", "numbers", "claims", "lab", "report", "forecast", "command", "distill", "session")  # of study/, from below
SHARED = {  # names that a family of modules has on purpose
    "headline": "of an analysis page: what its cell of that tag shows", "register": "of a registry: data sets, encoders",
    "renamed": "of an encoder: timm's names of its weights as ours",
}  # fmt: skip
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
# Absolute paths of some machine; written so that this line does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~/)\]}<])/(?:work|root|home|Users|mnt|opt|tmp)/(?=\w)")


def tracked(*suffixes: str) -> list[Path]:
    """Files that git has or would take, with one of the suffixes."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(ROOT / name for name in names if name.endswith(suffixes) and (ROOT / name).is_file())


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders or ("segkd",) for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST | None = None) -> str:
    return path.relative_to(ROOT).as_posix() + (f":{node.lineno}" if node else "")


def imports(path: Path, top_level: bool = False):
    """(node, dotted name) of every import; ``from a import b`` gives ``a.b``, relative ones made absolute."""
    module = tree(path)
    nodes = module.body if top_level else ast.walk(module)
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node, ".".join([*base, alias.name])) for alias in node.names)


def house_imports(path: Path):
    """(node, first name below segkd) of the imports from the package itself; the facade counts as ''."""
    for node, name in imports(path):
        first, _, rest = name.partition(".")
        if first == "segkd":
            below = rest.split(".")[0]
            yield node, below if (PACKAGE / below).is_dir() or (PACKAGE / f"{below}.py").is_file() else ""


def floor_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_a_floor():
    names = {floor_name(path) for path in sources()} - {"__init__"}
    assert names <= set(FLOOR), f"give {sorted(names - set(FLOOR))} a floor"


def test_imports_only_go_down():
    wrong = []
    for path in sources():
        own = floor_name(path)
        for node, below in house_imports(path):
            if own not in FLOOR or below == own:
                continue
            same_floor_below = FLOOR[own] in (0, FLOOR["study"])  # the ground floor and the top may use neighbours
            if below not in FLOOR or FLOOR[below] > FLOOR[own] or (FLOOR[below] == FLOOR[own] and not same_floor_below):
                wrong.append(f"{where(path, node)} imports {below or 'the facade'}")
    assert not wrong, "\n".join(wrong)


def test_wings_never_import_each_other():
    wings = FLOORS[1]
    wrong = [
        f"{where(path, node)} imports {below}"
        for wing in wings for path in sources(f"segkd/{wing}") for node, below in house_imports(path)
        if below in wings - {wing}
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_of_the_study_only_look_down():
    """Each room of ``study/`` uses its own modules and the rooms below it; lab and report do not know each other."""
    wrong = []
    for path in sources("segkd/study"):
        own = path.relative_to(PACKAGE / "study").with_suffix("").parts[0]
        for node, name in imports(path):
            if name.startswith("segkd.study.") and (room := name.split(".")[2]) != own:
                if ROOMS.index(room) > ROOMS.index(own) or {room, own} == {"lab", "report"}:
                    wrong.append(f"{where(path, node)} imports {room}")
    assert not wrong, "\n".join(wrong)


def test_drawing_and_pages_know_no_measure():
    found = [(path, *one) for path in sources("segkd/analysis/figures", "segkd/study/report") for one in imports(path)]
    wrong = [f"{where(path, node)} imports {name}" for path, node, name in found if name.startswith("segkd.analysis.") and "figures" not in name]
    assert not wrong, "\n".join(wrong)


def test_modules_do_not_go_in_circles():
    """Not even through imports inside functions."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in sources()}
    graph = {}
    for name, path in names.items():
        found = (n if n in names else n.rpartition(".")[0] for _, n in imports(path))
        graph[name] = {n for n in found if n in names and n != name and not names[n].name == "__init__.py"}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_public_name_means_one_thing():
    """No function, class or type stands in two modules; constants in capitals are their module's own."""
    found = {}
    for path in sources():
        for node in tree(path).body:
            named = getattr(node, "targets", [getattr(node, "target", node)])
            names = {getattr(one, "name", getattr(one, "id", "_")) for one in named}
            for name in names:
                if not name.startswith("_") and not name.isupper():
                    found.setdefault(name, set()).add(where(path))
    twice = {name: sorted(paths) for name, paths in found.items() if len(paths) > 1}
    assert set(twice) == set(SHARED), {name: paths for name, paths in twice.items() if name not in SHARED}


def test_only_core_packages_at_module_level():
    """Optional and heavy packages are imported inside the function that uses them."""
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", text)[0].lower() for text in core}
    allowed = {IMPORT_NAMES.get(name, name) for name in names} | set(sys.stdlib_module_names) | {"segkd"}
    wrong = [
        f"{where(path, node)} imports {name}"
        for path in sources() for node, name in imports(path, top_level=True) if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_segkd_is_light():
    heavy = "matplotlib seaborn sklearn papermill nbconvert segmentation_models_pytorch pytorch_grad_cam bs4".split()
    heavy += "onnx onnxruntime onnxscript peft transformers timm torchvision triton".split()
    code = "import sys, segkd; [getattr(segkd, name) for name in segkd.__all__];"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sources(), ids=where)
def test_every_module_imports(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def test_files_and_functions_stay_short():
    wrong = []
    for path in sources("segkd", "tests", "benchmarks"):
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > (400 if path.parent.name == "benchmarks" else 300):
            wrong.append(f"{where(path)} has {length} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:
                wrong.append(f"{where(path, node)} {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert not wrong, "\n".join(wrong)


def test_each_file_says_what_it_is_about():
    wrong = []
    for path in sources("segkd", "tests", "benchmarks"):
        text = path.read_text(encoding="utf-8")
        first = text.partition("\n")[0]
        if text.strip() and not (ast.get_docstring(ast.parse(text)) and first.strip('"').strip()):
            wrong.append(where(path))
    assert not wrong, f"the first line must be a docstring: {wrong}"


def test_no_paths_of_some_machine():
    suffixes = ".py .md .ipynb .toml .yml .yaml .txt .csv .json .j2 .css .cff Makefile run".split()
    wrong = []
    for path in tracked(*suffixes):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := MACHINE_PATH.search(line):
                wrong.append(f"{where(path)}:{number}: {line[found.start():][:60]}")
    assert not wrong, "\n".join(wrong)


def notebooks() -> list[Path]:
    found = (ROOT / "notebooks").rglob("*.ipynb")
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts and not p.name.endswith(".failed.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=where)
def test_notebooks_are_committed_clean(path):
    """No outputs, exactly one cell of parameters (plain literals), nothing injected, the portable kernel name."""
    from segkd.study.report.notebooks import parameters_of

    book = json.loads(path.read_text(encoding="utf-8"))
    tags = [tag for cell in book["cells"] for tag in cell["metadata"].get("tags", [])]
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert tags.count("parameters") == 1 and "injected-parameters" not in tags
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert book["metadata"].get("kernelspec", {}).get("name", "python3") == "python3"
    assert parameters_of(path)


@pytest.mark.parametrize("path", notebooks(), ids=where)
def test_formulas_of_notebooks_become_mathml(path):
    from segkd.study.report.markup import markdown_html

    book = json.loads(path.read_text(encoding="utf-8"))
    text = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown"]
    source_shown = re.compile(r'<code class="formula">(.*?)</code>', re.DOTALL)
    wrong = [found for source in text for found in source_shown.findall(markdown_html(source))]
    assert not wrong, f"not converted: {wrong}"
