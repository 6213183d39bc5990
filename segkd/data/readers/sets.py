"""The catalogue of data sets, read from sets.yaml: classes, colours, id maps, counts, licences, how to get the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import yaml

from segkd.registry import unknown

FILE = Path(__file__).with_name("sets.yaml")


@dataclass(frozen=True)
class About:
    """What is fixed of a data set.

    ``ids[n]`` is the raw mask value of train id n, ``void`` are the raw values to ignore, ``mat_ids`` is ``ids`` for masks
    that come as .mat with another numbering. ``splits`` maps a split to its expected number of images,
    ``folders`` are names of folders that it may lie in, ``archives`` the files that it is distributed as.
    """

    name: str
    title: str
    cite: str
    url: str
    licence: str
    login: bool
    how: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    void: tuple[int, ...]
    mat_ids: tuple[int, ...]
    splits: Mapping[str, int]
    folders: tuple[str, ...]
    archives: tuple[str, ...]


def about(name: str) -> About:
    """The catalogue's entry of a data set; UserError for one that it does not have."""
    if name not in catalogue():
        raise unknown("data set in the catalogue", name, catalogue())
    return catalogue()[name]


@cache
def catalogue() -> Mapping[str, About]:
    """All entries by name."""
    values = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return MappingProxyType({name: _entry(name, **value) for name, value in values.items()})


def _entry(name: str, classes: str, colours: str, ids: str, void: str, mat_ids: str = "", **values) -> About:
    numbers = {"ids": parse_ranges(ids), "void": parse_ranges(void), "mat_ids": parse_ranges(mat_ids)}
    names = {key: tuple(values.pop(key)) for key in ("folders", "archives")}
    return About(name, classes=tuple(classes.split(", ")), palette=tuple(map(parse_colour, colours.split())), **numbers, **names, **values)


def parse_ranges(text: str) -> tuple[int, ...]:
    """ "0-2 5" -> (0, 1, 2, 5)."""
    pairs = (word.partition("-") for word in text.split())
    return tuple(number for first, _, last in pairs for number in range(int(first), int(last or first) + 1))


def parse_colour(text: str) -> tuple[int, int, int]:
    """ "80ff00" or "#80ff00" -> (128, 255, 0); ValueError for anything else."""
    digits = text.removeprefix("#")
    if len(digits) != 6:
        raise ValueError(f"not a colour: {text}")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def generated_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """``count`` (up to 256) distinct colours by PASCAL VOC's rule: the bits of the number, three a turn, from the top."""
    turn, channel = np.arange(8), np.arange(3)[:, None]
    bits = np.arange(count)[:, None, None] >> (3 * turn + channel) & 1
    return tuple(map(tuple, (bits << (7 - turn)).sum(2).tolist()))
