"""Names to things: unknown names are answered with the nearest known one, in one line."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, or what one may use of it


class UserError(Exception):
    """Bad input: one line that names the key, the value and what to do. The command line turns it into exit code 2."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this line in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def unknown(kind: str, value: object, known: Iterable[str]) -> UserError:
    """The error for a name that is not known, with the nearest known one and the list."""
    known = sorted(known)
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(value).lower(), spelled, n=1, cutoff=0.4)
    hint = f"did you mean '{spelled[near[0]]}'? " if near else ""
    return UserError(f"unknown {kind} '{value}': {hint}known: {', '.join(known)}")


class Registry(Generic[T]):
    """A table of named things of one kind."""

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a thing under ``name``; a name is given once."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The thing called ``name``; UserError with the nearest name otherwise."""
        if name not in self._items:
            raise unknown(self.kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._items)
