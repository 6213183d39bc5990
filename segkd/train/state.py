"""Files of a run on disk: whole or not at all. Checkpoints (last two), logs, results, and the lock."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, flush it to disk, then rename it: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_whole(path, lambda p: p.write_text(json.dumps(value, indent=1) + "\n"))


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_whole(path, lambda p: p.write_text("".join(json.dumps(row) + "\n" for row in rows)))


def save_checkpoint(directory: Path, state: dict, keep: int = 2) -> None:
    """Write ``checkpoint-<step>.pt`` and remove all but the newest ``keep``."""
    write_whole(directory / f"checkpoint-{state['step']:07d}.pt", lambda p: torch.save(state, p))
    for old in sorted(directory.glob("checkpoint-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)


def load_checkpoint(directory: Path) -> dict | None:
    """The newest readable checkpoint, or None. A damaged one is reported and the one before it taken."""
    for path in sorted(directory.glob("checkpoint-*.pt"), reverse=True):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - a truncated file fails in many ways; the older one must serve
            warnings.warn(f"{path}: unreadable checkpoint ({type(error).__name__}), trying the one before", stacklevel=2)
    return None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run's lock; a second process waits. The kernel frees it when the holder dies, however it dies."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
