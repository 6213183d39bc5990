"""The runs that are there as a table: how far each is, its score and what it cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from segkd.config import runs_root
from segkd.registry import UserError
from segkd.runs import Run, load_run
from segkd.train.failure import REPORT

COLUMNS = ("run", "state", "mIoU %", "val %", "ms a step", "minutes", "MiB")


def run_list() -> pd.DataFrame:
    """A row a run under `runs_root`, by id; ``minutes``: of training, the passes of its teacher included.

    ``state``: done, step 120/300 (the last one that was logged), stopped (see `segkd replay`) or damaged.
    """
    rows = [_row(path.parent) for path in sorted(runs_root().glob("*/config.json"))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(folder: Path) -> dict:
    try:
        run = load_run(folder.name)
        return {"run": run.id, **(_done(run) if run.done else {"state": _state(run)})}
    except UserError as error:  # one damaged folder hides no other
        return {"run": folder.name, "state": f"damaged: {error}"}


def _done(run: Run) -> dict:
    result = run.result
    seconds = result["seconds_per_step"] + result["teacher_seconds_per_step"]
    return {
        "state": "done", "mIoU %": 100 * result["miou"], "val %": 100 * result["val_last"], "ms a step": 1e3 * seconds,
        "minutes": seconds * run.config.schedule.steps / 60, "MiB": result["peak_memory_mib"],
    }  # fmt: skip


def _state(run: Run) -> str:
    if (run.path / REPORT).exists():
        return "stopped: see `segkd replay`"
    rows = run.metrics() if (run.path / "metrics.jsonl").exists() else []  # written with the newest checkpoint
    return f"step {max((row.get('step', 0) for row in rows), default=0)}/{run.config.schedule.steps}"


def run_lines() -> list[str]:
    """`run_list` as text."""
    frame = run_list()
    damaged = frame["state"].str.startswith("damaged")
    notes = [f"{run}  {state}" for run, state in zip(frame["run"][damaged], frame["state"][damaged])]
    frame["state"] = frame["state"].where(~damaged, "damaged")
    done = int((frame["state"] == "done").sum())
    if frame.empty:
        return [f"no runs under {runs_root()}; `make reproduce` or `segkd train config.json` makes them"]
    formats = {"mIoU %": "{:.1f}", "val %": "{:.1f}", "ms a step": "{:.0f}", "minutes": "{:.1f}", "MiB": "{:.0f}"}
    for column, form in formats.items():
        frame[column] = [form.format(value) if pd.notna(value) else "" for value in frame[column]]
    return [*left_aligned(frame, "run", "state"), *notes, f"{done} of {len(frame)} done, in {runs_root()}"]


def left_aligned(frame: pd.DataFrame, *columns: str) -> list[str]:
    """A frame as lines of text, these columns of words flush left."""
    words = frame.assign(**{column: frame[column].str.ljust(frame[column].str.len().max()) for column in columns})
    return [line.rstrip() for line in words.to_string(index=False, justify="left").splitlines()]
