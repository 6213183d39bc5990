"""List files of a split as others write them: names, files, image and mask in two columns, with the folders of any machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from segkd.data.files.layout import composed, some
from segkd.data.files.sources import Source
from segkd.registry import UserError


class Side(NamedTuple):
    """The images or the masks of a set: their folder, the endings looked for, and the path of each by its name."""

    folder: str
    ends: tuple[str, ...]
    paths: dict[str, str]

    def name_of(self, text: str) -> str | None:
        """The name that a word of a list means, with or without ending, quotes and folders before it; None for no name."""
        plain = re.sub(r"^(\./)+", "", text.strip("\"'").replace("\\", "/"))
        for word in (text, plain, *self._below(plain)):
            for end in ("", *self.ends):
                name = word[: len(word) - len(end)]
                if word.lower().endswith(end.lower()) and name in self.paths:
                    return name
        return None

    def _below(self, path: str) -> Iterator[str]:
        """What follows the folder in a path, or the folder's last parts."""
        parts = self.folder.split("/")
        for first in range(len(parts)):
            _, found, rest = f"/{path}".rpartition(f"/{'/'.join(parts[first:])}/")
            if found:
                yield rest

    def instead(self, source: Source, missing: str = "") -> str:
        """The endings that count, and what the folder has: a file of nearly the name ``missing``, or how many of which ending."""
        files = [PurePosixPath(path).name for path in source.names(self.folder)]
        stem = missing.rpartition("/")[2]
        near = [name for name in files if stem and name.startswith(stem) and not name[len(stem)].isalnum()]
        counts = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in files).most_common(3)
        has = f"'{near[0]}'" if near else ", ".join(f"{count} of {end}" for end, count in counts) or "no files"
        return f"{', '.join(self.ends)} count, the folder has {has}"


def read_list(source: Source, path: str, images: Side, masks: Side) -> set[str]:
    """The names that a list file selects; empty lines and comments (#) do not count.

    UserError with the line: a path that leads out of the set, an image that is not there, one that is there twice, a second
    column that is not its mask, no UTF-8, no names.
    """
    try:
        text = source.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source.where(path)} is not UTF-8 text: save the list as UTF-8") from error
    names: set[str] = set()
    wrong: list[tuple[int, str]] = []
    for number, line in enumerate((composed(line.strip()) for line in text.splitlines()), 1):
        if not line or (line.startswith("#") and line not in images.paths):
            continue
        name = None if ".." in re.split(r"[/\\]", line) else images.name_of(line) or _pair(line, images, masks)
        if name is None and (re.match(r"[/\\~]|[A-Za-z]:", line) or ".." in re.split(r"[/\\]", line)):
            raise UserError(f"{source.where(path)}:{number}: '{line}' leads out of the data set: give names below its folder")
        if name is None:
            wrong.append((number, line))
        elif name in names:
            raise UserError(f"{source.where(path)}:{number} names '{name}' twice: take the second away")
        else:
            names.add(name)
    if wrong:
        number, line = wrong[0]
        raise UserError(
            f"{source.where(path)}:{number}: {images.folder} has no image for {some([line for _, line in wrong])}: get it again or "
            f"take it off the list; a line is a name, or an image and its mask ({images.instead(source, line)})"
        )
    if not names:
        raise UserError(f"{source.where(path)} is empty: list one name a line")
    return names


def _pair(line: str, images: Side, masks: Side) -> str | None:
    """The name of an image and its mask in two columns, whose paths may hold blanks."""
    for gap in re.finditer(r"[\s,;]+", line):
        name = images.name_of(line[: gap.start()])
        if name is not None and masks.name_of(line[gap.end() :]) == name:
            return name
    return None
