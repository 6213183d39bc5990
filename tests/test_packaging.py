"""Installing: pins, bounds and the conda file agree, every package used is declared, the Makefile does what it says."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = "help env test test-all reproduce distill lab data report bench gpu-check gpu-study clean".split()
# What a package is called when it is imported, where that differs from its name.
IMPORTED_AS = {
    "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "grad-cam": "pytorch_grad_cam",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}
# Comes with nbconvert by its own declaration and is used only beside it.
WITH_NBCONVERT = {"IPython", "bs4", "jinja2", "nbclient", "pygments", "traitlets"}  # and with ipykernel


def pins(lines: list[str]) -> dict[str, Version]:
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line.strip()) for line in lines]
    return {canonicalize_name(m[1]): Version(m[2]) for m in found if m}


def constraints() -> dict[str, Version]:
    return pins((ROOT / "constraints.txt").read_text().splitlines())


def declared() -> list[Requirement]:
    extras = [text for name, group in PROJECT["optional-dependencies"].items() if name != "all" for text in group]
    return [Requirement(text) for text in PROJECT["dependencies"] + extras]


def test_constraints_are_exact_pins_and_nothing_else():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(constraints()) == len(lines) > 100
    assert "segkd" not in constraints() and "pip" not in constraints()


def test_every_declared_package_is_pinned_within_its_bounds():
    for requirement in declared():
        assert constraints()[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_all_names_every_extra():
    (text,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(text).extras == set(PROJECT["optional-dependencies"]) - {"all"}


def closure() -> set[str]:
    """Everything that the declared packages need on this interpreter, as far as it is installed."""
    todo, seen = [(canonicalize_name(r.name), frozenset(r.extras)) for r in declared()], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                todo.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {name for name, _ in seen}


def test_constraints_pin_whatever_comes_along():
    assert closure() <= set(constraints()), sorted(closure() - set(constraints()))


def test_conda_file_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python=")]
    assert Version(python.split("=")[1]) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert {"-c constraints.txt", "-e .[all]"} <= set(pip)
    assert set(pins(pip)) == {canonicalize_name(r.name) for r in declared()}
    assert pins(pip).items() <= constraints().items()


def test_every_package_that_is_imported_is_declared():
    names = {canonicalize_name(r.name) for r in declared()}
    known = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    known |= set(sys.stdlib_module_names) | WITH_NBCONVERT | {"segkd"}
    used = set()
    for path in (ROOT / "segkd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(node.module.split(".")[0])
    assert used <= known, sorted(used - known)


def test_the_command_is_installed():
    (entry,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "segkd"]
    assert entry.value == "segkd.cli:main" and callable(entry.load())


def test_templates_travel_with_the_package():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]["segkd"]
    files = [p for p in (ROOT / "segkd").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert {f"**/*{path.suffix}" for path in files} <= set(patterns)


def make(*arguments: str, expect: int = 0) -> str:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode != 0) == bool(expect), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_make_alone_lists_the_targets():
    text = make()
    assert sorted(line.split()[0] for line in text.splitlines() if re.match(r"  [a-z]", line)) == sorted(TARGETS)


def test_second_env_does_nothing(tmp_path):
    (tmp_path / ".segkd-stamp").touch()
    assert "pip" not in make("env", f"VENV={tmp_path}")


def test_env_without_a_fitting_python_says_so(tmp_path):
    text = make("env", f"VENV={tmp_path / 'none'}", "PYTHON=false", expect=1)
    assert "segkd needs Python 3.11 or newer" in text and not (tmp_path / "none").exists()


def test_reproduce_passes_its_choices(tmp_path):
    (tmp_path / ".segkd-stamp").touch()
    choice = ("PROFILE=scratch", "DATASET=camvid", "SEEDS=0,3", "METHODS=cwd,lad")
    text = make("-n", "reproduce", f"VENV={tmp_path}", *choice)
    line = " ".join(text.split())
    assert 'reproduce --profile "scratch" --dataset "camvid" --seeds "0,3" --methods "cwd,lad"' in line
    assert "--devices" not in line


def test_clean_spares_runs_and_data():
    commands = make("-n", "clean")
    assert "rm -rf" in commands
    assert not re.search(r"(?<![\w.])(runs|data)\b", commands)


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in text and "make test" in text
