"""Files in a .zip or a .tar, read in place; archives with unsafe members are refused.

Nothing is ever unpacked. An archive is indexed once and then read by offset (``os.pread``), so that images come in any
order, and forked processes and threads share it without sharing a position in it.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segkd.data.files.sources import LARGEST, Folder, Source, Union
from segkd.registry import UserError

RATIO, RATIO_FROM = 200, 16 * 2**20  # a member this much larger than what is stored, and at least so many bytes, is a bomb
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, length of name, length of extra field


class Member(NamedTuple):
    """Where a file lies in an archive: ``offset`` of its data (zip: of its header), bytes there, bytes when unpacked."""

    offset: int
    stored: int
    size: int
    deflated: bool = False
    crc: int | None = None


class Archive(Source):
    """A .zip or an uncompressed .tar."""

    def __init__(self, path: Path):
        self.path, self._file = Path(path), None
        self._members = _index(self.path)
        self._sorted = sorted(self._members)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None}

    def names(self, folder: str = "") -> list[str]:
        prefix = f"{folder}/" if folder else ""
        first = bisect_left(self._sorted, prefix)
        last = bisect_left(self._sorted, prefix[:-1] + "0") if folder else len(self._sorted)  # "0" follows "/"
        return self._sorted[first:last]

    def has(self, name: str) -> bool:
        return name in self._members

    def has_folder(self, folder: str) -> bool:
        return bool(self.names(folder))

    def size(self, name: str) -> int:
        return self._member(name).size

    def checksum(self, name: str) -> int:
        crc = self._member(name).crc
        return super().checksum(name) if crc is None else crc

    def where(self, name: str) -> str:
        return f"{self.path}:{name}"

    def read(self, name: str) -> bytes:
        member, offset = self._member(name), self._member(name).offset
        if member.crc is not None:  # of a zip: the data follows a header of its own
            signature, name_length, extra_length = LOCAL_HEADER.unpack(self._bytes(name, offset, LOCAL_HEADER.size))
            if signature != b"PK\x03\x04":
                raise self._damaged(name)
            offset += LOCAL_HEADER.size + name_length + extra_length
        data = self._bytes(name, offset, member.stored)
        if member.deflated:
            data = self._inflate(name, data, member.size)
        if len(data) != member.size or (member.crc is not None and zlib.crc32(data) != member.crc):
            raise self._damaged(name)
        return data

    def _member(self, name: str) -> Member:
        if name not in self._members:
            raise UserError(f"{self.where(name)} is not there: get the archive again")
        return self._members[name]

    def _bytes(self, name: str, offset: int, count: int) -> bytes:
        try:
            self._file = self._file or open(self.path, "rb")
            data = os.pread(self._file.fileno(), count, offset)
        except OSError as error:
            raise UserError(f"{self.where(name)} cannot be read ({error.strerror}): get the archive again") from error
        if len(data) != count:
            raise self._damaged(name)
        return data

    def _inflate(self, name: str, data: bytes, size: int) -> bytes:
        """At most one byte more than the index says, whatever the data would unpack to."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self.where(name)} cannot be read (the archive is damaged or cut off): get it again")


def open_source(path: str | Path, archives: tuple[str, ...] = ()) -> Source:
    """A folder, behind those of ``archives`` that lie in it, or one archive; UserError if it is neither or is unsafe.

    Of an archive that is distributed compressed (.tgz, .tar.gz) the .tar beside it is read.
    """
    path = Path(path)
    if not path.is_dir():
        return open_archive(path)
    plain = [name.removesuffix(".gz").replace(".tgz", ".tar") for name in archives]
    packed = [open_archive(path / name) for name in plain if (path / name).is_file()]
    return Union([*packed, Folder(path)]) if packed else Folder(path)


def open_archive(path: Path) -> Archive:
    """An archive, indexed once a process as long as the file does not change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a folder, a .zip or a .tar") from error
    return _open_archive(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _open_archive(path: Path, changed: int, size: int) -> Archive:
    return Archive(path)


def _index(path: Path) -> dict[str, Member]:
    with open(path, "rb") as file:
        head = file.read(4)
    if head[:2] in COMPRESSED:
        tool = COMPRESSED[head[:2]]
        raise UserError(f"{path} is compressed as a whole and cannot be read at random: run `{tool}` on it once")
    try:
        return _index_zip(path) if zipfile.is_zipfile(path) else _index_tar(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes of the parsers
        raise UserError(f"{path} is no .zip or .tar that can be read ({error}): get it again") from error


def _index_zip(path: Path) -> dict[str, Member]:
    members: dict[str, Member] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            _check_name(path, info.orig_filename)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(path, name, "is a symbolic link" if kind == stat.S_IFLNK else "is no plain file")
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refused(path, name, "is encrypted or compressed in an unusual way", "pack it again")
            if info.file_size > max(RATIO_FROM, RATIO * info.compress_size):
                raise _refused(path, name, f"would grow from {info.compress_size} to {info.file_size} bytes")
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            _add(path, members, name, Member(info.header_offset, info.compress_size, info.file_size, deflated, info.CRC))
    return members


def _index_tar(path: Path) -> dict[str, Member]:
    members: dict[str, Member] = {}
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            _check_name(path, info.name)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                what = "symbolic link" if info.issym() else "hard link" if info.islnk() else "device or other special file"
                raise _refused(path, info.name, f"is a {what}")
            _add(path, members, info.name, Member(info.offset_data, info.size, info.size))
    return members


def _check_name(path: Path, name: str) -> None:
    parts = name.split("/")
    if parts[0] == "" or "\\" in name or ".." in parts or "\0" in name or parts[0].endswith(":"):
        raise _refused(path, name, "has a path that could lead out of the archive")
    if not name.isprintable():
        raise _refused(path, name, "has a name that cannot be shown")


def _add(path: Path, members: dict[str, Member], name: str, member: Member) -> None:
    if "//" in name or "./" in name:
        name = str(PurePosixPath(name))  # "./a//b" is "a/b"
    if name in members:
        raise _refused(path, name, "is there twice", "pack it again")
    if member.size > LARGEST:
        raise _refused(path, name, f"has {member.size} bytes, more than {LARGEST}")
    members[name] = member


def _refused(path: Path, name: str, why: str, remedy: str = "do not trust the archive, get it from its publisher") -> UserError:
    return UserError(f"{path} is not read: its member {name!r} {why}; {remedy}")
