"""Data sets by name: what every reader offers, and how its folder is found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkd.data import scenes
from segkd.registry import Registry, UserError, unknown

CHECKOUT = Path(__file__).resolve().parents[2]
MANIFESTS = CHECKOUT / "data" / "manifests"


class Sample(NamedTuple):
    """One image uint8 (H, W, 3) in RGB, its label uint8 (H, W) with train ids and 255 = ignore, and its name."""

    image: np.ndarray
    label: np.ndarray
    name: str


class Dataset:
    """One split of a data set: ``len()``, ``[i]`` -> Sample, ``.names`` in a fixed order, ``.classes``, ``.palette``.

    A reader sets the class attributes, fills ``names`` and writes ``read`` and ``fingerprint``. ``about``: the catalogue's
    entry; ``how`` to get the files and the ``form`` of the masks, in words; ``size`` (H, W) where images are drawn.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: tuple[str, ...]
    about, how, form, size = None, "see data/README.md", "", None

    def __init__(self, split: str):
        if split not in self.splits:
            raise unknown(f"split of {self.name}", split, self.splits)
        self.split = split
        self.names: list[str] = []

    num_classes = property(lambda self: len(self.classes))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} images, there is no number {index}")
        image, label = self.read(range(len(self))[index])
        return Sample(image, label, self.names[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label number ``index``; UserError with the file's name if they cannot be used."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hex digest of what this split is read from: another content, another digest, on any machine."""
        raise NotImplementedError

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self[index].label.shape

    def at_size(self, size: tuple[int, int]) -> Dataset:
        """This split with images of ``size`` (H, W) if it can make them itself; otherwise unchanged."""
        return self


DATASETS: Registry[type[Dataset]] = Registry("data set")


@DATASETS.register("scenes")
class Scenes(Dataset):
    """The embedded procedural street scenes, drawn at ``size`` (H, W) when asked for; ``root`` is not used."""

    name = "scenes"
    classes = tuple(scenes.CLASSES)
    palette = tuple(tuple(int(value) for value in colour) for colour in scenes.PALETTE)
    splits = tuple(scenes.SPLITS)

    def __init__(self, root: str | Path | None = None, split: str = "train", size: tuple[int, int] = (180, 240)):
        super().__init__(split)
        self.size = size
        self.names = [f"{split}_{index:04d}" for index in range(scenes.SPLITS[split])]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return scenes.split_scene(self.split, index, self.size)

    def fingerprint(self) -> str:
        """The generator's version and parameters; its pixels are the same on any CPU, and a test holds their hash."""
        facts = ("scenes", str(scenes.VERSION), self.split, repr(scenes.DIFFICULTY))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def at_size(self, size: tuple[int, int]) -> Scenes:
        return Scenes(split=self.split, size=tuple(size))


def list_datasets() -> list[str]:
    """Names that ``create_dataset`` knows."""
    return DATASETS.names()


def create_dataset(name: str, root: str | Path | None = None, split: str = "train") -> Dataset:
    """One split of the data set ``name``, read as it is distributed.

    ``root``: its folder; if None it is looked for under ``$SEGKD_DATA`` and ``data/raw``. UserError for an unknown name
    or split (with the nearest one), a folder that is not there, and files that do not fit together.
    """
    return DATASETS.get(name)(root=root, split=split)


def or_named(root: str | Path | None) -> str:
    """The other remedy for a set that is not found, where nobody said which place is meant."""
    return ", or point SEGKD_DATA at where it is" if root is None else ""


def root_candidates(root: str | Path | None, children: tuple[str, ...]) -> list[Path]:
    """Where a set may lie, in order: ``root`` alone if given, else $SEGKD_DATA (itself, its ``children``), data/raw.

    UserError: a ``root`` or $SEGKD_DATA that is not there.
    """
    named = root if root is not None else os.environ.get("SEGKD_DATA")
    named = Path(named).expanduser() if named else None
    if named and not named.exists():  # else what lies in data/raw would be taken without a word
        near = get_close_matches(named.name, os.listdir(named.parent), 1) if named.parent.is_dir() else []
        hint = f"did you mean {named.parent / near[0]}? " if near else ""
        if root is not None:
            raise UserError(f"there is no {named}: {hint}give the place of the data set")
        raise UserError(f"SEGKD_DATA names {named}, which is not there: {hint}mend it, or unset it to look in data/raw")
    found = [named, *(named / child for child in children)] if named else []
    if root is None:  # a notebook's working directory is not the checkout's
        found += [base / "data" / "raw" / children[0] for base in (Path.cwd(), CHECKOUT)]
    return list(dict.fromkeys(found))
