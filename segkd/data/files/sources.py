"""Where the files of a data set are: a folder, or several seen as one. Archives become folders first (unpack.py)."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from segkd.registry import UserError

FOREIGN = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information")  # folders that systems leave
LARGEST = 512 * 2**20  # bytes of one file: far above any image, far below what fills a machine


class Source:
    """Files by their path inside, with "/" between folders; symbolic links are followed, for they are their owner's.

    What is hidden (.ipynb_checkpoints, ._x.png) or left by a system (@eaDir) is never data.

    ``path``: the folder or archive that was given. ``folders``: where its files are; the first that has a file gives it.
    """

    def __init__(self, path: Path, folders: Sequence[Path] = ()):
        self.path, self.folders = Path(path), tuple(folders) or (Path(path),)

    def names(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder`` (any depth), sorted; empty if it is not there."""
        return sorted({name for base in self.folders for name in _walk(base, folder, frozenset())})

    def has(self, name: str) -> bool:
        return self._file(name).is_file()

    def has_folder(self, folder: str) -> bool:
        return any((base / folder).is_dir() for base in self.folders)

    def where(self, name: str) -> str:
        """How to name a file in a message."""
        return str(self._file(name))

    def size(self, name: str) -> int:
        """Bytes of a file; UserError if it is not there."""
        return self._try(name, os.path.getsize)

    def read(self, name: str) -> bytes:
        """Content of a file; UserError if it is not there, cannot be read or is too large."""
        if self.size(name) > LARGEST:
            raise UserError(f"{self.where(name)} has {self.size(name)} bytes, more than {LARGEST}: it is no image of a data set")
        return self._try(name, Path.read_bytes)

    def checksum(self, name: str) -> int:
        """CRC-32 of a file."""
        return zlib.crc32(self.read(name))

    def _file(self, name: str) -> Path:
        return next((base / name for base in self.folders if (base / name).is_file()), self.folders[-1] / name)

    def _try(self, name: str, action):
        try:
            return action(self._file(name))
        except OSError as error:
            raise UserError(f"{self.where(name)} cannot be read ({error.strerror}): get it again or make it readable") from error


def _walk(base: Path, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Files below ``folder``; a link to a folder above itself (``above``: device and inode of each) is not followed."""
    try:
        place = os.stat(base / folder)
        entries = [] if (place.st_dev, place.st_ino) in above else list(os.scandir(base / folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{base / folder} cannot be listed ({error.strerror}): make it readable") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in FOREIGN:
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir():
            yield from _walk(base, name, above | {(place.st_dev, place.st_ino)})
        elif entry.is_file():
            yield name
