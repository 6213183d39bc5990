"""A .zip or .tar unpacked once into a hidden folder beside it, whole or not at all; one with an unsafe member is refused."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from segkd.data.files.sources import Source
from segkd.decode import LARGEST
from segkd.registry import UserError

RATIO, RATIO_FROM = 200, 16 * 2**20  # what grows to so many times its size, and to at least so many bytes, is a bomb
PIECE = 1 << 20  # bytes that are copied at a time


def sources(path: Path, archives: tuple[str, ...] = ()) -> Iterator[Source]:
    """The files of a folder, then, if some of ``archives`` lie in it, with theirs before its own; or those of one archive.

    An archive named .tgz or .tar.gz may be there as .tar. UserError if it cannot be unpacked.
    """
    if not path.is_dir():
        yield Source(path, [unpacked(path)])
        return
    yield Source(path)
    there = [path / name for name in dict.fromkeys((*archives, *map(uncompressed, archives))) if (path / name).is_file()]
    if there:
        yield Source(path, [*map(unpacked, there), path])


def uncompressed(name: str) -> str:
    """The name of an archive when it is not compressed."""
    return name.removesuffix(".gz").replace(".tgz", ".tar")


def unpacked(path: Path) -> Path:
    """The folder with an archive's files: ``.<name>.<hash of its size and time>``, made when it is not there yet.

    UserError: no archive, a member that is unsafe, damaged or too large, no room; then nothing is left behind.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a folder, a .zip or a .tar") from error
    key = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:8]
    target = path.with_name(f".{path.name}.{key}")
    try:
        if not target.is_dir():
            with file_lock(path.with_name(f".{path.name}.lock")):
                if not target.is_dir():  # another process may have made it while we waited
                    forget(path)
                    _unpack(path, target)
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked beside it ({error.strerror}): make {path.parent} a folder with room that you may write"
        ) from error
    return target


def forget(path: Path) -> None:
    """Remove what was unpacked of an archive."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}.") and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unpack(path: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    part.mkdir()
    total, most = 0, max(RATIO_FROM, RATIO * path.stat().st_size)
    print(f"unpacking {path} beside it", flush=True)
    try:
        for name, size, content in _members(path):
            total += size
            if size > LARGEST:
                raise _refused(path, name, f"has {size} bytes, more than {LARGEST}")
            if total > most:
                raise _refused(path, name, f"would grow the archive to {total} bytes or more")
            place = part / name
            if place.exists():
                raise _refused(path, name, "is there twice", "pack it again")
            place.parent.mkdir(parents=True, exist_ok=True)
            with content, open(place, "xb") as file:
                shutil.copyfileobj(content, file, PIECE)
            if place.stat().st_size != size:
                raise EOFError(f"{name} is not as long as it should be")
        part.rename(target)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "errno", None):  # of the disk; those of a damaged archive have no number
            raise
        why = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{path} is no .zip or .tar that can be read ({why}): get it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _members(path: Path) -> Iterator[tuple[str, int, BinaryIO]]:
    """Name, bytes and content of each file; UserError at the first member that is no plain file or has an unsafe name."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                _check_zip(path, info)
                if not info.is_dir():
                    yield _inside(path, info.orig_filename), info.file_size, archive.open(info)
        return
    with tarfile.open(path) as archive:
        for info in archive:
            name = _inside(path, info.name)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                what = "symbolic link" if info.issym() else "hard link" if info.islnk() else "device or other special file"
                raise _refused(path, name, f"is a {what}")
            yield name, info.size, archive.extractfile(info)


def _check_zip(path: Path, info: zipfile.ZipInfo) -> None:
    name, kind = _inside(path, info.orig_filename), stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(path, name, "is a symbolic link" if kind == stat.S_IFLNK else "is no plain file")
    if not info.is_dir() and (info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        raise _refused(path, name, "is encrypted or compressed in an unusual way", "pack it again")
    if info.file_size > max(RATIO_FROM, RATIO * info.compress_size):
        raise _refused(path, name, f"would grow from {info.compress_size} to {info.file_size} bytes")


def _inside(path: Path, name: str) -> str:
    """The name of a member, "./a//b" as "a/b"; UserError if it leads out of the archive or cannot be shown."""
    parts = name.split("/")
    if parts[0] == "" or "\\" in name or ".." in parts or "\0" in name or parts[0].endswith(":"):
        raise _refused(path, name, "has a path that could lead out of the archive")
    if not name.isprintable():
        raise _refused(path, name, "has a name that cannot be shown")
    return str(PurePosixPath(name))


def _refused(path: Path, name: str, why: str, remedy: str = "do not trust the archive, get it from its publisher") -> UserError:
    return UserError(f"{path} is not read: its member {name!r} {why}; {remedy}")
