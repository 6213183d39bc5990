"""Where the files of a data set are: a folder, or several sources seen as one; archives.py adds .zip and .tar."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from segkd.registry import UserError

LARGEST = 512 * 2**20  # bytes of one file: far above any image, far below what fills a machine


class Source:
    """Files by their path inside, with "/" between folders."""

    path: Path

    def names(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder`` (any depth), sorted; empty if it is not there."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        raise NotImplementedError

    def has_folder(self, folder: str) -> bool:
        """Whether there is a folder ``folder``."""
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes of a file; UserError if it is not there."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Content of a file; UserError if it is not there, cannot be read or is too large."""
        raise NotImplementedError

    def checksum(self, name: str) -> int:
        """CRC-32 of a file; a zip has it written in its index."""
        return zlib.crc32(self.read(name))

    def where(self, name: str) -> str:
        """How to name a file in a message."""
        return str(self.path / name)


class Folder(Source):
    """A folder of the disk; symbolic links in it are followed, for they are its owner's."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def names(self, folder: str = "") -> list[str]:
        return sorted(self._walk(folder, set()))

    def _walk(self, folder: str, above: set[tuple[int, int]]):
        try:
            place = os.stat(self.path / folder)
            entries = list(os.scandir(self.path / folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UserError(f"{self.where(folder)} cannot be listed ({error.strerror}): make it readable") from error
        if (place.st_dev, place.st_ino) in above:  # a link to a folder above itself
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self._walk(name, above | {(place.st_dev, place.st_ino)})
            elif entry.is_file():
                yield name

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def has_folder(self, folder: str) -> bool:
        return (self.path / folder).is_dir()

    def size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def read(self, name: str) -> bytes:
        if self.size(name) > LARGEST:
            raise UserError(f"{self.where(name)} has {self.size(name)} bytes, more than {LARGEST}: it is no image of a data set")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> UserError:
        return UserError(f"{self.where(name)} cannot be read ({error.strerror}): get it again or make it readable")


class Union(Source):
    """Several sources seen as one; a file of an earlier one hides the same file of a later one. The last gives its path."""

    def __init__(self, sources: list[Source]):
        self.sources, self.path = sources, sources[-1].path

    def names(self, folder: str = "") -> list[str]:
        return sorted({name for source in self.sources for name in source.names(folder)})

    def has(self, name: str) -> bool:
        return any(source.has(name) for source in self.sources)

    def has_folder(self, folder: str) -> bool:
        return any(source.has_folder(folder) for source in self.sources)

    def size(self, name: str) -> int:
        return self._holder(name).size(name)

    def read(self, name: str) -> bytes:
        return self._holder(name).read(name)

    def checksum(self, name: str) -> int:
        return self._holder(name).checksum(name)

    def where(self, name: str) -> str:
        return self._holder(name).where(name)

    def _holder(self, name: str) -> Source:
        return next((source for source in self.sources if source.has(name)), self.sources[-1])
