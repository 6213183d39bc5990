"""Files of a run on disk: whole or not at all. Checkpoints (last two), logs, results, and the lock."""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from segkd.registry import UserError


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file, flush it to disk, then rename it: a reader never sees half a file.

    UserError where the disk is full or may not be written; what was there before is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)  # the rename too outlives a power cut
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _cannot_write(path: Path, error: OSError) -> UserError:
    reason = error.strerror or type(error).__name__
    return UserError(f"{path}: cannot be written ({reason}); all that was there is kept: put that right, then repeat the command")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_whole(path, lambda p: p.write_text(json.dumps(value, indent=1) + "\n"))


def read_json(path: Path, advice: str) -> dict:
    """The mapping that a JSON file holds; UserError with ``advice`` if the file is damaged or cannot be read."""
    return _mappings(path, lambda text: [json.loads(text)], advice)[0]


def read_rows(path: Path, advice: str) -> list[dict]:
    """What `write_rows` wrote, a mapping a line; UserError as `read_json` gives it."""
    return _mappings(path, lambda text: list(map(json.loads, text.splitlines())), advice)


def _mappings(path: Path, parse: Callable[[str], list], advice: str) -> list[dict]:
    try:
        values = parse(path.read_text())
        if not (others := [type(value).__name__ for value in values if not isinstance(value, dict)]):
            return values
        why = f"holds a {others[0]}, not a mapping"
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor text
        why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    raise UserError(f"{path}: {why}; {advice}")


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_whole(path, lambda p: p.write_text("".join(json.dumps(row) + "\n" for row in rows)))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors, whole or not at all."""
    from safetensors.torch import save

    data = save({name: value.detach().contiguous().cpu() for name, value in tensors.items()})
    write_whole(path, lambda p: p.write_bytes(data))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write named arrays as one compressed file of numpy, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, lambda p: p.write_bytes(buffer.getvalue()))


def save_checkpoint(directory: Path, state: dict) -> None:
    """Write ``checkpoint-<step>.pt`` and remove all but the newest two."""
    write_whole(directory / f"checkpoint-{state['step']:07d}.pt", lambda p: _save(p, state))
    for old in checkpoints(directory)[2:]:
        old.unlink(missing_ok=True)


def _save(path: Path, state: dict) -> None:
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch says "unexpected pos"; why the disk refused is the context
        raise error.__context__ if isinstance(error.__context__, OSError) else error


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted(directory.glob("checkpoint-*.pt"), reverse=True)


def load_checkpoint(directory: Path) -> dict | None:
    """The newest readable checkpoint, or None. A damaged one is reported and the one before it taken."""
    for path in checkpoints(directory):
        try:
            return _load(path)
        except Exception as error:  # noqa: BLE001 - a truncated file fails in many ways; the older one must serve
            warnings.warn(f"{path}: unreadable checkpoint ({type(error).__name__}), trying the one before", stacklevel=2)
    return None


def _load(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:  # torch itself reads changed bytes without a word
        if (part := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {part} does not fit")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run's lock; a second process says that it waits. The kernel frees it when the holder dies, however it dies.

    What killed processes left half-written is removed. UserError where the folder cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / "lock", "a+")  # noqa: SIM115 - closed below, with what is done under the lock
    except OSError as error:
        raise _cannot_write(directory, error) from error
    with file:
        _take(file, directory.name)
        for leftover in directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


def _take(file: TextIO, run: str) -> None:
    """Take the lock and leave a note of who has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        print(f"run {run}: {file.read() or 'another process'} is training it; waiting", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    with suppress(OSError):  # the note may be missing on a full disk, the lock is held all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
