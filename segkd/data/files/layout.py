"""Where the images and masks of a set lie, and which belong together: folders, endings, list files."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segkd.data.files.sources import Source
from segkd.registry import UserError


@dataclass(frozen=True)
class Layout:
    """Folders of images and masks below a base; ``{split}`` stands for the split's folder name.

    A file's name is its path below its folder without the ending; of a name's masks the one with the earliest ending
    counts. ``lists``: text files, the first that is there selects the names; without any all images and masks count.
    """

    images: str
    masks: str
    image_ends: tuple[str, ...] = (".jpg",)
    mask_ends: tuple[str, ...] = (".png",)
    lists: tuple[str, ...] = ()

    def at(self, base: str, folder: str) -> Layout:
        """With all paths below ``base`` and the split's folder put in."""
        images, masks, *lists = (
            join(base, path.replace("{split}", folder)) for path in (self.images, self.masks, *self.lists)
        )
        return Layout(images, masks, self.image_ends, self.mask_ends, tuple(lists))


class Pair(NamedTuple):
    """Paths of an image and of its mask in the source."""

    image: str
    mask: str


def join(base: str, path: str) -> str:
    """``base/path``; one alone if the other is empty."""
    return f"{base}/{path}" if base and path else base or path


def composed(name: str) -> str:
    """``name`` in composed Unicode: some systems store an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def by_name(source: Source, folder: str, ends: tuple[str, ...], one_each: bool = False) -> dict[str, str]:
    """Path of each file below ``folder`` by its name there; other endings are left out.

    UserError if two files have one name and one ending, or, with ``one_each``, one name and any endings.
    """
    found: dict[str, tuple[int, str]] = {}
    ranked = sorted(((end.lower(), rank) for rank, end in enumerate(ends)), key=lambda pair: -len(pair[0]))  # the longest fits
    for path in source.names(folder):
        low = path.lower()
        rank = next((rank for end, rank in ranked if low.endswith(end)), None)
        if rank is None:
            continue
        name = composed(path[len(folder) + 1 if folder else 0 : -len(ends[rank])])
        if name in found and (one_each or found[name][0] == rank):
            raise UserError(f"{source.where(path)} and {source.where(found[name][1])} have one name: rename one")
        if name not in found or rank < found[name][0]:
            found[name] = rank, path
    return {name: path for name, (_, path) in found.items()}


def read_lines(source: Source, path: str) -> list[str]:
    """The lines of a text file that are not empty; UserError if it is no UTF-8 or has none."""
    try:
        text = source.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source.where(path)} is not UTF-8 text: save the list as UTF-8") from error
    lines = [composed(line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{source.where(path)} is empty: list one name a line")
    return lines


def read_list(source: Source, path: str) -> list[str]:
    """The names in a list file, one a line; UserError for absolute paths, ``..`` and names that are there twice."""
    names = read_lines(source, path)
    for name in names:
        if name.startswith(("/", "\\", "~")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/"):
            raise UserError(f"{source.where(path)}: '{name}' leads out of the data set: give names below its folder")
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise UserError(f"{source.where(path)} names {some(doubled)} twice: take the second away")
    return names


def some(names: Sequence[str], between: str = ", ", quote: str = "'") -> str:
    """Up to three names in quotes and how many more there are."""
    shown = between.join(f"{quote}{name}{quote}" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
