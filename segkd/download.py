"""Files from the net: checked by their hash, mirrors in order, resumed where a download broke off, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from segkd.registry import UserError

CHUNK = 1 << 18
TRIES = 3  # an address that breaks off is asked so often for the rest before the next one
LINE_SECONDS = 10.0  # without a terminal: a line so often


class _Failed(Exception):
    """One address did not give the file; the text says why. ``again``: asking it for the rest may help."""

    def __init__(self, why: str, again: bool = False):
        super().__init__(why)
        self.again = again


def fetch(urls: Sequence[str], digest: str | None, target: Path, timeout: float = 30.0) -> Path:
    """Bring the file with this hash to ``target`` from the first of ``urls`` (http, https) that has it; returns it.

    ``digest``: SHA-256 in hex, or ``md5:`` and an MD5 where its publisher gives no better one; None: the first body that
    arrives whole is taken, and the caller checks what is in it before he uses it. A file that is there is checked and kept. What has come stays in a hidden ``.part`` file beside the target, and the
    next call asks for the rest; a body with another hash is thrown away. Processes that want the same file wait for one
    another. ``timeout``: seconds without a byte. UserError: an existing file with another hash, a folder that cannot be
    written, no address that works; it says where to put the file by hand.
    """
    target, expected = Path(target), _expected(digest)
    _check(urls)
    if not _is_there(target, expected):
        with _writing(target), _partial(target, expected) as part:
            if not _is_there(target, expected):  # another process may have brought it while we waited
                _from_first_that_works(urls, expected, target, part, timeout)
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Expected(NamedTuple):
    """The hash that a file must have; ``algorithm`` None: any will do."""

    algorithm: str | None
    value: str

    @property
    def name(self) -> str:
        return {"sha256": "SHA-256", "md5": "MD5"}.get(self.algorithm, "")

    def matches(self, file: BinaryIO) -> tuple[bool, str]:
        """Whether the bytes from the file's place on are the expected ones, and the hash that they have."""
        if self.algorithm is None:
            return True, ""
        found = hashlib.file_digest(file, self.algorithm).hexdigest()
        return found == self.value, found


def _expected(digest: str | None) -> _Expected:
    if digest is None:
        return _Expected(None, "unknown")
    found = re.fullmatch(r"([0-9a-f]{64})|md5:([0-9a-f]{32})", digest.lower())
    if found is None:
        raise UserError(f"download: '{digest}' is no SHA-256; give 64 hex digits (or md5: and 32)")
    return _Expected("sha256" if found[1] else "md5", found[1] or found[2])


def _check(urls: Sequence[str]) -> None:
    if isinstance(urls, str) or not urls:
        raise UserError("download: give a list of one address or more")
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(f"download: '{url}' is no http or https address")


def _is_there(target: Path, expected: _Expected) -> bool:
    if not target.exists():
        return False
    with open(target, "rb") as file:
        good, found = expected.matches(file)
    if not good:
        raise UserError(
            f"{target}: {expected.name} is {found[:16]}..., expected {expected.value[:16]}...; remove the file to download it anew"
        )
    return True


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Errors of the disk inside become a UserError; those of the net are `_Failed` long before."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; make {target.parent} a folder with room that you may write"
        ) from error


@contextmanager
def _partial(target: Path, expected: _Expected) -> Iterator[BinaryIO]:
    """The partial file, locked, at its end. Removed when it is left empty, moved away when complete, else kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{expected.value[:8]}.part")
    while True:
        file = open(path, "a+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # whoever held it before has moved or removed it
    with file:
        try:
            yield file
        finally:
            if path.exists() and os.fstat(file.fileno()).st_size == 0:
                path.unlink()


def _from_first_that_works(urls: Sequence[str], expected: _Expected, target: Path, part: BinaryIO, timeout: float) -> None:
    problems = []
    for url in urls:
        try:
            _from(url, expected, target.name, part, timeout)
        except _Failed as failed:
            problems.append(f"{url}: {failed}")
        else:
            part.flush()
            os.fsync(part.fileno())
            os.replace(part.name, target)
            return
    raise UserError(
        f"could not download {target.name}: {'; '.join(problems)}. Go online and try again, or put the file at {target} "
        "by hand" + (f" ({expected.name} {expected.value})" if expected.name else "")
    )


def _from(url: str, expected: _Expected, name: str, part: BinaryIO, timeout: float) -> None:
    """Fill ``part`` from one address, or `_Failed`. Bad bytes that were there before are not held against the address."""
    for left in reversed(range(TRIES)):
        have, good, found = _state(part, expected)
        try:
            if not good or not expected.algorithm:
                _append(url, name, part, have, timeout)
                _, good, found = _state(part, expected)
        except _Failed as failed:
            if not (failed.again and left):
                raise
            continue
        if good:
            return
        _empty(part)
        if not have or not left:
            raise _Failed(f"has another {expected.name} ({found[:16]}..., expected {expected.value[:16]}...)")


def _state(part: BinaryIO, expected: _Expected) -> tuple[int, bool, str]:
    """Bytes that are there, whether they are the expected ones, their hash."""
    part.flush()
    part.seek(0)
    good, found = expected.matches(part)
    return part.seek(0, os.SEEK_END), good, found


def _empty(part: BinaryIO) -> None:
    part.seek(0)
    part.truncate()


def _append(url: str, name: str, part: BinaryIO, have: int, timeout: float) -> None:
    """Ask for what follows the ``have`` bytes that are there, and write it behind them."""
    with _open(url, have, timeout) as response:
        if have and not _goes_on(response, have):
            _empty(part)
            have = 0
            if response.status != 200:
                raise _Failed("answered with another part of the file than was asked for", again=True)
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        with _Bar(name, str(urlsplit(url).hostname), have, total) as bar:
            for chunk in _chunks(response):
                part.write(chunk)
                bar.add(len(chunk))
        part.flush()
        if total is not None and bar.have < total:
            raise _Failed(f"broke off after {bar.have} of {total} bytes", again=True)


def _goes_on(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether the answer begins at byte ``have``; a server without ranges answers with the whole file (200)."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found[1]) == have


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    """The answer to a request; only http and https, also where it is redirected to."""
    opener = urllib.request.OpenerDirector()
    for handler in ("Proxy", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect", "Unknown"):
        opener.add_handler(getattr(urllib.request, f"{handler}Handler")())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    headers = {"User-Agent": "segkd", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is there is as long as the file or longer, and yet not it
            return _open(url, 0, timeout)
        raise _Failed(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError, refused, reset and timed-out are OSErrors
        raise _Failed(f"no connection ({getattr(error, 'reason', None) or error})") from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body; a broken connection ends it as `_Failed`."""
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(f"broke off ({error})", again=True) from error
        if not chunk:
            return
        yield chunk


class _Bar:
    """How far a download is: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, name: str, host: str, have: int, total: int | None):
        self.have, self.total, self.name, self.bar = have, total, name, None
        self.last_line = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, dynamic_ncols=True)
        else:
            self._say(f" from {host}")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int) -> None:
        """``count`` more bytes are written."""
        self.have += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            self._say("")

    def _say(self, more: str) -> None:
        total = "" if self.total is None else f" of {self.total / 1e6:.1f}"
        print(f"download {self.name}{more}: {self.have / 1e6:.1f}{total} MB", flush=True)
