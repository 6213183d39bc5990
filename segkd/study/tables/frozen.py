"""Frozen results: a finished study's numbers as files of the repository, read while a report is made without its runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from segkd.config import RunConfig
from segkd.download import file_sha256
from segkd.registry import UserError
from segkd.runs import Run, find
from segkd.study.gaps import BANNER
from segkd.train.state import read_json

FOLDER = "SEGKD_FROZEN"  # environment variable: the folder of the files; set while a report is made without training
FILES = ("results.csv", "curves.csv", "images.npz", "measures.csv", "study.json")
HASHES = "hashes.json"


def folder() -> Path | None:
    """Where numbers of runs that are not here are read from; None: nowhere, what is not here is not run."""
    value = os.environ.get(FOLDER)
    return Path(value) if value else None


def kept_seeds(folder: Path) -> list[int]:
    """The seeds of the results in ``folder``; none without any."""
    path = folder / "results.csv"
    return sorted(map(int, read_results(path)["seed"].unique())) if path.exists() else []


def find_run(config: RunConfig) -> Run:
    """The run of a config: the one on disk, or its numbers from the frozen files where a report is made from them."""
    run, where = find(config), folder()
    if run.done or where is None or not (where / "results.csv").exists():
        return run
    kept = open_frozen(where)
    return FrozenRun(config, run.path, kept) if config.id in kept.values else run


def train_shares() -> list[float] | None:
    """Each class's share of the training pixels, from the frozen files; None where they are not in use."""
    where = folder()
    return open_frozen(where).facts["train_shares"] if where and (where / "study.json").exists() else None


@dataclass(frozen=True)
class FrozenRun(Run):
    """A finished run of which only the numbers are here. ``kept`` holds them."""

    kept: Frozen

    @property
    def done(self) -> bool:
        """Always: only finished runs are frozen."""
        return True

    @cached_property
    def result(self) -> dict:
        """What ``result.json`` said, less the confusion matrix and the hyper-parameters."""
        values, facts = dict(self.kept.values[self.id]), self.kept.facts
        found = [values.pop(f"iou/{name}", None) for name in facts["classes"]]
        return {"id": self.id, "split": facts["split"], "num_classes": len(found), "classes": facts["classes"], "iou": found} | values

    def metrics(self) -> list[dict]:
        """Rows of losses and of validation mIoU over the steps."""
        return self.kept.curves.get(self.id, [])

    def images(self) -> np.ndarray | None:
        """Counts of each image, (N, 3, C), or None; see `Run.images`."""
        return self.kept.images(self.id)

    def measured(self, name: str) -> dict[str, float]:
        """What `mechanisms` measured inside the network, by part; UserError if it did not."""
        found = self.kept.measures.get((self.id, name))
        if found is None:
            raise UserError(f"run {self.id}: '{name.split()[0]}' was not measured and its network is not here; `{self.kept.remedy}` trains it")
        return found

    def load_model(self, device: str = "cpu", percent: int = 100) -> torch.nn.Module:
        """UserError: the network itself is not kept."""
        raise UserError(f"run {self.id}: only its numbers are kept; `{self.kept.remedy}` trains its network")


@dataclass(frozen=True)
class Frozen:
    """The frozen files of one study, each read when it is first asked for."""

    folder: Path

    @property
    def remedy(self) -> str:
        """The command that makes runs and files anew."""
        return f"make reproduce PROFILE={self.facts['profile']} DATASET={self.facts['dataset']}"

    @cached_property
    def facts(self) -> dict:
        """``study.json``: protocol, classes and provenance."""
        warn(self.folder, "study.json")
        found = read_json(self.folder / "study.json", "bring it back with git checkout, or make reproduce")
        if missing := {"profile", "dataset", "classes", "split", "train_shares"} - set(found):
            raise UserError(f"{_short(self.folder / 'study.json')} has no {', '.join(sorted(missing))}: make reproduce writes it anew")
        return found

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """Metrics of each run by its id. UserError: lines of more than one profile or data set."""
        warn(self.folder, "results.csv")
        frame = read_results(self.folder / "results.csv")
        profile, data = self.facts["profile"], self.facts["dataset"]
        if set(frame["profile"]) - {profile} or set(frame["dataset"]) - {data}:
            raise UserError(f"{_short(self.folder)}: results.csv and study.json are not of one study; `{self.remedy}` writes both")
        first = frame.drop_duplicates(["run", "metric"])
        return {run: dict(zip(lines["metric"], lines["value"])) for run, lines in first.groupby("run")}

    @cached_property
    def curves(self) -> dict[str, list[dict]]:
        """Rows of each run's ``metrics.jsonl`` by its id; lists (IoU of the classes) are left out."""
        if not (self.folder / "curves.csv").exists():
            return {}
        warn(self.folder, "curves.csv")
        frame = pd.read_csv(self.folder / "curves.csv")
        rows = lambda lines: [{k: v for k, v in row.items() if v == v} for row in lines.to_dict("records")]  # noqa: E731  no NaN
        return {run: rows(lines.drop(columns="run")) for run, lines in frame.groupby("run")}

    @cached_property
    def measures(self) -> dict[tuple[str, str], dict[str, float]]:
        """What was measured inside networks, by run and measure: its parts, "" for one number."""
        if not (self.folder / "measures.csv").exists():
            return {}
        warn(self.folder, "measures.csv")
        frame = pd.read_csv(self.folder / "measures.csv", keep_default_na=False, na_values={"value": [""]})
        return {key: dict(zip(lines["part"], lines["value"])) for key, lines in frame.groupby(["run", "measure"])}

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        if not (self.folder / "images.npz").exists():
            return {}
        warn(self.folder, "images.npz")
        with np.load(self.folder / "images.npz", allow_pickle=False) as found:
            return {name: found[name] for name in found.files}

    def images(self, run: str) -> np.ndarray | None:
        """Counts (N, 3, C) int64 of a run, or None."""
        counts = self._arrays.get(run)
        if counts is None:
            return None
        if counts.shape[1] == 2:  # the labels' pixels are the same for all runs and are kept once
            counts = np.stack([counts[:, 0], self._arrays["labels"], counts[:, 1]], axis=1)
        return counts.astype(np.int64)


@lru_cache(maxsize=8)
def open_frozen(where: Path) -> Frozen:
    """The frozen files of a folder."""
    return Frozen(where)


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


def warn(where: Path, name: str) -> None:
    """Put the warning on the page that is being made, if the file was altered."""
    from IPython import get_ipython

    if get_ipython() is not None and altered(where, (name,)):
        from IPython.display import display

        display({BANNER: {"text": warning(where, name)}, "text/plain": warning(where, name)}, raw=True)


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:]) if path.suffix else "/".join(path.parts[-2:])
