"""Files from the net: checked by their hash, mirrors in order, resumed where a download broke off, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from segkd.registry import UserError

CHUNK = 1 << 18
TRIES = 3  # an address that breaks off is asked so often for the rest before the next one


class _Failed(Exception):
    """One address did not give the file; the text says why. ``again``: asking it for the rest may help."""

    def __init__(self, why: str, again: bool = False):
        super().__init__(why)
        self.again = again


class _Expected(NamedTuple):
    """The hash that a file must have, ``name`` in words; without ``algorithm`` any will do."""

    algorithm: str
    name: str
    value: str

    def of(self, file: BinaryIO) -> str:
        """The hash of the bytes from the file's place on."""
        return hashlib.file_digest(file, self.algorithm).hexdigest() if self.algorithm else self.value


def fetch(urls: Sequence[str], digest: str | None, target: Path, timeout: float = 30.0) -> Path:
    """Bring the file with this hash to ``target`` from the first of ``urls`` (http, https) that has it; returns it.

    ``digest``: SHA-256 in hex, or ``md5:`` and an MD5 where its publisher gives no better one; None: the first body that
    arrives whole is taken, and the caller checks what is in it before he uses it. A file that is there is checked and kept.
    What has come stays in a hidden ``.part`` file beside the target, and the next call asks for the rest; a body with
    another hash is thrown away. Processes that want the same file wait for one another. ``timeout``: seconds without a
    byte. UserError: an existing file with another hash, a folder that cannot be written, no address that works; it says
    where to put the file by hand.
    """
    target, expected = Path(target), _expected(digest)
    if isinstance(urls, str) or not urls:
        raise UserError("download: give a list of one address or more")
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(f"download: '{url}' is no http or https address")
    try:
        if not _is_there(target, expected):
            with _partial(target, expected) as part:
                if not _is_there(target, expected):  # another process may have brought it while we waited
                    _from_first_that_works(urls, expected, target, part, timeout)
    except OSError as error:  # of the disk: those of the net are `_Failed` long before
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; make {target.parent} a folder with room that you may write"
        ) from error
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expected(digest: str | None) -> _Expected:
    if digest is None:
        return _Expected("", "", "unknown")
    found = re.fullmatch(r"([0-9a-f]{64})|md5:([0-9a-f]{32})", digest.lower())
    if found is None:
        raise UserError(f"download: '{digest}' is no SHA-256; give 64 hex digits (or md5: and 32)")
    return _Expected("sha256", "SHA-256", found[1]) if found[1] else _Expected("md5", "MD5", found[2])


def _is_there(target: Path, expected: _Expected) -> bool:
    if not target.exists():
        return False
    with open(target, "rb") as file:
        found = expected.of(file)
    if found != expected.value:
        raise UserError(
            f"{target}: {expected.name} is {found[:16]}..., expected {expected.value[:16]}...; remove the file to download it anew"
        )
    return True


@contextmanager
def _partial(target: Path, expected: _Expected) -> Iterator[BinaryIO]:
    """The partial file, locked, at its end. Removed when it is left empty, moved away when complete, else kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{expected.value[:8]}.part")
    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # whoever held it before has moved or removed it
            try:
                yield file
            finally:
                if path.exists() and os.fstat(file.fileno()).st_size == 0:
                    path.unlink()
            return


def _from_first_that_works(urls: Sequence[str], expected: _Expected, target: Path, part: BinaryIO, timeout: float) -> None:
    problems = []
    for url in urls:
        try:
            _from(url, expected, target.name, part, timeout)
        except _Failed as failed:
            problems.append(f"{url}: {failed}")
        else:
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
        have, found = _state(part, expected)
        if found != expected.value or not expected.algorithm:
            try:
                _append(url, name, part, have, timeout)
            except _Failed as failed:
                if failed.again and left:
                    continue
                raise
            _, found = _state(part, expected)
        if found == expected.value:
            return
        part.truncate(0)
        if not have or not left:
            raise _Failed(f"has another {expected.name} ({found[:16]}..., expected {expected.value[:16]}...)")


def _state(part: BinaryIO, expected: _Expected) -> tuple[int, str]:
    """Bytes that are there, and their hash."""
    part.seek(0)
    found = expected.of(part)
    return part.seek(0, os.SEEK_END), found


def _append(url: str, name: str, part: BinaryIO, have: int, timeout: float) -> None:
    """Ask for what follows the ``have`` bytes that are there, and write it behind them."""
    with _open(url, have, timeout) as response:
        begin = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if have and not (response.status == 206 and begin and int(begin[1]) == have):  # 200: the server knows no ranges
            part.truncate(0)
            have = 0
            if response.status != 200:
                raise _Failed("answered with another part of the file than was asked for", again=True)
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        often = 0.1 if sys.stderr.isatty() else 10  # seconds from one word of progress to the next
        what = f"download {name} from {urlsplit(url).hostname}"
        with tqdm(None, what, total, initial=have, unit="B", unit_scale=True, mininterval=often, dynamic_ncols=True) as bar:
            for chunk in _chunks(response):
                part.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
        part.flush()
        if total is not None and have < total:
            raise _Failed(f"broke off after {have} of {total} bytes", again=True)


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    """The answer to a request; only http and https, also where it is redirected to."""
    opener = urllib.request.OpenerDirector()
    for handler in ("ProxyHandler", "HTTPHandler", "HTTPSHandler", "HTTPDefaultErrorHandler", "HTTPRedirectHandler", "UnknownHandler",
                    "HTTPErrorProcessor"):  # fmt: skip
        opener.add_handler(getattr(urllib.request, handler)())
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
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(f"broke off ({error})", again=True) from error
