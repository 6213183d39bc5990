"""Where the images and masks of a set lie, and which belong together: folders, endings, list files."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
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
        images, masks, *lists = (join(base, path.replace("{split}", folder)) for path in (self.images, self.masks, *self.lists))
        return Layout(images, masks, self.image_ends, self.mask_ends, tuple(lists))


class Pair(NamedTuple):
    """Paths of an image and of its mask in the source."""

    image: str
    mask: str


def join(base: str, path: str) -> str:
    """``base/path``; one alone if the other is empty."""
    return "/".join(filter(None, (base, path)))


def composed(name: str) -> str:
    """``name`` in composed Unicode: some systems store an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def by_name(
    source: Source, folder: str, ends: tuple[str, ...], one_each: bool = False, but: Collection[str] = ()
) -> dict[str, str]:
    """Path of each file below ``folder`` by its name there; other endings and the paths in ``but`` are left out.

    UserError if two files have one name and one ending, or, with ``one_each``, one name and any endings.
    """
    found: dict[str, tuple[int, str]] = {}
    for path in source.names(folder):
        fits = [rank for rank, end in enumerate(ends) if path.lower().endswith(end.lower())]
        if not fits or path in but:
            continue
        rank = max(fits, key=lambda rank: len(ends[rank]))
        name = composed(path[len(folder) + 1 if folder else 0 : -len(ends[rank])])
        if name in found and (one_each or found[name][0] == rank):
            raise UserError(f"{source.where(path)} and {source.where(found[name][1])} have one name: rename one")
        if name not in found or rank < found[name][0]:
            found[name] = rank, path
    return {name: path for name, (_, path) in found.items()}


def some(names: Sequence[str], between: str = ", ", quote: str = "'") -> str:
    """Up to three names in quotes and how many more there are."""
    shown = between.join(f"{quote}{name}{quote}" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
