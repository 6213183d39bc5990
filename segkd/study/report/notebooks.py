"""Notebooks with parameters: run one (papermill), whole or not at all, and know whether what came out is up to date."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segkd.fields import fit_all
from segkd.registry import UserError
from segkd.study.gaps import START, allowed
from segkd.study.report.overview import Page, build_index
from segkd.study.report.pages import render

__all__ = [
    "Page", "ReportError", "build_index", "is_fresh", "parameters_of", "render", "run_notebook", "stamp",
]


class ReportError(UserError):
    """A notebook stopped: which cell, what it says, and where the partial notebook lies (``partial``)."""

    def __init__(self, message: str, partial: Path | None = None):
        super().__init__(message)
        self.partial = partial


def parameters_of(notebook: Path) -> dict[str, object]:
    """Names and default values of the cell tagged ``parameters``; its assignments must be plain literals."""
    cells = [cell for cell in _read(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{notebook}: {len(cells)} cells are tagged 'parameters': tag exactly one")
    found: dict[str, object] = {}
    for node in ast.parse(cells[0].source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(targets[0], ast.Name):
            try:
                found[targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                raise UserError(f"{notebook}: parameter {targets[0].id} must be a plain literal") from None
    return found


def run_notebook(
    notebook: Path, output: Path, parameters: Mapping[str, object], title: str | None = None, *,
    environment: Mapping[str, str] | None = None, gaps: bool = False, stamp: str = "",
) -> Path:
    """Run ``notebook`` with ``parameters`` and write the executed notebook to ``output``, whole or not at all.

    It runs on this very interpreter, from the root of the project that holds the notebook, with the variables of
    ``environment``. ``gaps``: a cell that needs what is not here shows the reason, and the page goes on. ``stamp``: what it
    is made of, for `is_fresh`.
    UserError: unknown parameter or wrong type. ReportError: a cell failed; the partial notebook then lies beside
    ``output`` as ``<name>.failed.ipynb`` and a page from an earlier run is left as it was.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    if not notebook.is_file():
        raise UserError(f"no notebook {_short(notebook)}: check the name")
    _check(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.{os.getpid()}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    try:
        start = _kernel_of_this_python(dict(environment or {}), gaps)
        _papermill(notebook, partial, dict(parameters), start, gaps)
        _finish(partial, notebook, output, title, stamp)
        os.replace(partial, output)
    except ReportError as error:
        if partial.exists():
            os.replace(partial, failed)
        raise ReportError(f"{error}; what was done so far: {_short(failed)}", failed) from error.__cause__
    finally:
        partial.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return output


def stamp(notebook: Path, parameters: Mapping[str, object], digests: Iterable[str] = ()) -> str:
    """sha256 over all that decides an executed notebook: its source, parameters, and the ``digests`` of its inputs."""
    digest = hashlib.sha256(Path(notebook).read_bytes())
    digest.update(json.dumps([dict(parameters), sorted(digests)], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def is_fresh(executed: Path, stamp: str) -> bool:
    """Whether the executed notebook exists and was made for this very ``stamp``."""
    return executed.is_file() and _read(executed).metadata.get("stamp") == stamp


def _check(notebook: Path, parameters: Mapping[str, object]) -> None:
    known = parameters_of(notebook) if parameters else {}
    fit_all(parameters, {name: _like(default) for name, default in known.items()}, "parameter", f"{_short(notebook)}: ")


def _like(default: object) -> object:
    """The type of a parameter: that of its default, lists by their first element; None as default takes anything."""
    if isinstance(default, (list, tuple)):
        return list[_like(default[0]) if default else Any]
    return Any if default is None else type(default)


def _papermill(notebook: Path, partial: Path, parameters: dict, start, gaps: bool) -> None:
    """Run into ``partial``, which papermill writes after each cell; any failure of a cell becomes a ReportError."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    parameters = {name: list(v) if isinstance(v, tuple) else v for name, v in parameters.items()}
    try:
        with start:
            papermill.execute_notebook(
                notebook, partial, parameters, kernel_name="python3", language="python", cwd=_root(notebook), progress_bar=False,
                allow_error_names=allowed() if gaps else [],
            )
    except PapermillExecutionError as error:
        raise ReportError(_failure(notebook, partial, f"{error.ename}: {error.evalue}")) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise ReportError(_failure(notebook, partial, f"{error} (out of memory?)")) from error


@contextmanager
def _kernel_of_this_python(environment: dict[str, str] = {}, gaps: bool = False) -> Iterator[None]:  # noqa: B006  only read
    """Let the name python3 mean this interpreter, whatever kernels and start-up files the user's home has."""
    with TemporaryDirectory(prefix="segkd-kernel-") as folder:
        spec = Path(folder) / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv.append("--IPKernelApp.log_level=50")  # papermill interrupts the idle kernel at the end, which it would call an error
        argv += [f"--IPKernelApp.exec_lines={START}"] if gaps else []
        env = {"IPYTHONDIR": str(Path(folder) / "ipython"), "OMP_NUM_THREADS": "1"} | environment  # pages are run side by side
        spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python", "env": env}))
        with variables(JUPYTER_PATH=os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))):
            yield


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment variables of this process and of those that it starts meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _failure(notebook: Path, partial: Path, error: str) -> str:
    """One line: cell number in the notebook as it is committed (all cells count, from 1), its first line, the error."""
    added = {"injected-parameters", "papermill-error-cell-tag"}
    own = [cell for cell in _read(partial).cells if not added & set(cell.metadata.get("tags", []))]
    started = [cell.cell_type == "code" and bool(cell.metadata.get("papermill", {}).get("start_time")) for cell in own]
    number = max((i for i, ran in enumerate(started, 1) if ran), default=0)  # the last one begun is the one that failed
    first = next((line.strip() for line in own[number - 1].source.splitlines() if line.strip()), "") if number else "?"
    return f"{_short(notebook)}: cell {number} stopped at `{first[:100]}`: {' '.join(error.split())[:400]}"


def _finish(partial: Path, notebook: Path, output: Path, title: str | None, stamp: str) -> None:
    """Give the executed notebook its title and its stamp, and take out the paths of this machine that papermill notes."""
    import nbformat

    node = _read(partial)
    if title:
        node.metadata["title"] = title
    if stamp:
        node.metadata["stamp"] = stamp
    node.metadata.get("papermill", {}).update(input_path=notebook.name, output_path=output.name)
    nbformat.write(node, partial)


def _read(path: Path):
    import nbformat

    return nbformat.read(path, as_version=4)


def _root(notebook: Path) -> Path:
    """The nearest folder above the notebook with a pyproject.toml, else the notebook's own folder."""
    return next((p for p in notebook.parents if (p / "pyproject.toml").is_file()), notebook.parent)


def _short(path: Path) -> str:
    """A path as the user would type it: relative to where they are, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
