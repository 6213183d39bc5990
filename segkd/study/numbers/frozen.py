"""Frozen results: a finished study's numbers as files of the repository, and back to runs whose networks are not here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from segkd.config import RunConfig, to_dict
from segkd.download import file_sha256
from segkd.registry import UserError
from segkd.runs import MEASURED, find
from segkd.train.state import read_json, write_arrays, write_json, write_rows

FILES = ("results.csv", "curves.csv", "images.npz", "measures.csv", "study.json")
HASHES = "hashes.json"


def kept_seeds(folder: Path) -> list[int]:
    """The seeds of the results in ``folder``; none without any."""
    path = folder / "results.csv"
    return sorted(map(int, read_results(path)["seed"].unique())) if path.exists() else []


def thaw(configs: Iterable[RunConfig], folder: Path) -> list[str]:
    """Those of ``configs`` that the frozen files in ``folder`` know and `runs_root` does not become finished runs there.

    All but their networks is there: scores, curves, counts of images, measures. Returns their ids. UserError: files that
    are not of one study, or have lost a column.
    """
    if not (folder / "results.csv").exists():
        return []
    facts, values = facts_of(folder), values_of(folder)
    curves, measures, counts = _curves(folder), _measures(folder), _counts(folder)
    missing = [c for c in {c.id: c for c in configs}.values() if c.id in values and not find(c).path.exists()]
    for config in missing:
        path = find(config).path
        path.mkdir(parents=True)
        write_json(path / "config.json", to_dict(config))
        write_rows(path / "metrics.jsonl", curves.get(config.id, []))
        if config.id in counts:
            write_arrays(path / "images.npz", counts=counts[config.id])
        write_json(path / "result.json", _result(config.id, values[config.id], facts))
        write_json(path / MEASURED, {"of": "", "values": measures.get(config.id, {})})
    return [config.id for config in missing]


def _result(run: str, values: dict[str, float], facts: dict) -> dict:
    """What ``result.json`` said, less the confusion matrix and the hyper-parameters; ``kept``: the command that trains it."""
    scores = {name: value for name, value in values.items() if not name.startswith("iou/")}
    iou = [values.get(f"iou/{name}") for name in facts["classes"]]
    command = f"make reproduce PROFILE={facts['profile']} DATASET={facts['dataset']}"
    return scores | {
        "id": run, "split": facts["split"], "num_classes": len(iou), "classes": facts["classes"], "iou": iou,
        "train_shares": facts["train_shares"], "kept": command,
    }  # fmt: skip


def facts_of(folder: Path) -> dict:
    """``study.json``: protocol, classes and provenance."""
    found = read_json(folder / "study.json", "bring it back with git checkout, or make reproduce")
    if missing := {"profile", "dataset", "classes", "split", "train_shares"} - set(found):
        raise UserError(f"{_short(folder / 'study.json')} has no {', '.join(sorted(missing))}: make reproduce writes it anew")
    return found


def values_of(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of each run by its id. UserError: lines of more than one profile or data set."""
    frame, facts = read_results(folder / "results.csv"), facts_of(folder)
    if set(frame["profile"]) - {facts["profile"]} or set(frame["dataset"]) - {facts["dataset"]}:
        raise UserError(f"{_short(folder)}: results.csv and study.json are not of one study; make reproduce writes both")
    first = frame.drop_duplicates(["run", "metric"])
    return {run: dict(zip(lines["metric"], lines["value"])) for run, lines in first.groupby("run")}


def _curves(folder: Path) -> dict[str, list[dict]]:
    """Rows of each run's ``metrics.jsonl`` by its id; lists (IoU of the classes) are left out."""
    if not (folder / "curves.csv").exists():
        return {}
    rows = lambda lines: [{k: v for k, v in row.items() if v == v} for row in lines.to_dict("records")]  # noqa: E731  no NaN
    return {run: rows(lines.drop(columns="run")) for run, lines in pd.read_csv(folder / "curves.csv").groupby("run")}


def _measures(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What was measured inside networks, by run and measure: its parts, "" for one number."""
    found: dict[str, dict] = {}
    if (folder / "measures.csv").exists():
        frame = pd.read_csv(folder / "measures.csv", keep_default_na=False, na_values={"value": [""]})
        for (run, measure), lines in frame.groupby(["run", "measure"]):
            found.setdefault(run, {})[measure] = dict(zip(lines["part"], lines["value"]))
    return found


def _counts(folder: Path) -> dict[str, np.ndarray]:
    """Counts (N, 3, C) int64 by run; the labels' pixels are the same for all runs and may be kept once."""
    if not (folder / "images.npz").exists():
        return {}
    with np.load(folder / "images.npz", allow_pickle=False) as found:
        arrays = dict(found)
    whole = lambda counts: counts if counts.shape[1] == 3 else np.stack([counts[:, 0], arrays["labels"], counts[:, 1]], axis=1)  # noqa: E731
    return {run: whole(counts).astype(np.int64) for run, counts in arrays.items() if run != "labels"}


def read_results(path: Path) -> pd.DataFrame:
    """A ``results.csv``. UserError: it mixes profiles or data sets, or has lost columns."""
    frame = pd.read_csv(path)
    if missing := {"profile", "dataset", "table", "row", "seed", "run", "metric", "value"} - set(frame):
        raise UserError(f"{_short(path)} has no column {', '.join(sorted(missing))}: make reproduce writes it anew")
    for column in ("profile", "dataset"):
        if frame[column].nunique() > 1:
            found = ", ".join(sorted(frame[column].astype(str).unique()))
            raise UserError(f"{_short(path)} mixes results of several {column}s ({found}): keep one {column} a folder")
    return frame


def altered(where: Path, names: tuple[str, ...] = FILES) -> list[str]:
    """Those of the frozen files that are not what the last ``make reproduce`` wrote."""
    path = where / HASHES
    known = read_json(path, "make reproduce writes it anew") if path.exists() else {}
    return [name for name in names if (where / name).exists() and known.get(name) != file_sha256(where / name)]


def warning(where: Path, name: str) -> str:
    """What is to be said of a frozen file that was altered, with the remedy."""
    return (
        f"{_short(where / name)} is not the file that the study wrote (its SHA-256 differs from {HASHES}): do not trust the numbers "
        "that come from it. Bring it back with git checkout, or write it anew from the runs with make reproduce."
    )


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:]) if path.suffix else "/".join(path.parts[-2:])
