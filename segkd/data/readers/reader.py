"""What all readers of files share: finding the files, pairing images with masks, ids, and the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from segkd.data.catalog import DATASETS, Dataset, or_named, root_candidates
from segkd import decode
from segkd.ids import ColourMap, IdMap
from segkd.data.files.layout import Layout, Pair, by_name, join, some
from segkd.data.files.lists import Side, read_list
from segkd.data.files.sources import Source
from segkd.data.files.unpack import sources
from segkd.data.readers.sets import About, about
from segkd.metrics import IGNORE
from segkd.registry import UserError

TRAIN_IDS = "_labelTrainIds.png"  # the end of masks that scripts of cityscapesScripts and mmsegmentation make
LOOKED_AT, BEYOND = 64, 10  # masks, and published ids beyond the train ids, that tell which of them masks hold
WHOLE = 256 * 2**20  # a split with up to so many bytes of images is fingerprinted by all of them


def register(name: str) -> Callable[[type[Reader]], type[Reader]]:
    """Decorator: files a reader under ``name``, with what the catalogue says of it."""

    def add(reader: type[Reader]) -> type[Reader]:
        entry = about(name)
        reader.name, reader.about, reader.how = name, entry, entry.how
        reader.classes, reader.palette, reader.splits = entry.classes, entry.palette, tuple(entry.splits)
        return DATASETS.register(name)(reader)

    return add


class Reader(Dataset):
    """One split of a set of image and mask files, in a folder or an archive, names sorted.

    A reader says in which ``layouts`` below which ``bases`` it comes and what its splits' folders are called.
    """

    about: ClassVar[About | None] = None
    how: ClassVar[str]  # how to get the files, for messages
    bases: ClassVar[tuple[str, ...]] = ("",)
    layouts: ClassVar[tuple[Layout, ...]] = ()
    as_stored: ClassVar[bool] = True  # published masks fit the images as they are stored, whatever EXIF says
    folder_of: ClassVar[dict[str, str]] = {}  # split -> folder name, where they differ
    has_masks: bool = True  # False: the split's labels are all ignored

    def __init__(self, root: str | Path | None = None, split: str = "train"):
        super().__init__(split)
        self.source, self.base, self.layout = self.find(root)
        self.pairs = self.list_pairs()
        self.names = sorted(self.pairs)
        self.ids = self.id_map()
        if self._holds_train_ids():
            self.ids = self.train_ids

    @property
    def root(self) -> Path:
        """The folder, or the archive and the folder in it, below which the layout lies."""
        return self.source.path / self.base

    def find(self, root: str | Path | None) -> tuple[Source, str, Layout]:
        """The first place, base and layout whose folders of images and masks are there."""
        places, folder = root_candidates(root, self.about.folders), self.folder_of.get(self.split, self.split)
        for place in filter(Path.exists, places):
            for source in sources(place, self.about.archives):
                for base, layout in product(self.bases, self.layouts):
                    here = layout.at(base, folder)
                    if source.has_folder(here.images) and source.has_folder(here.masks):
                        return source, base, here
        looked = ", ".join(map(str, places))
        here = self.layouts[0].at(self.bases[-1], folder)
        there = sorted({entry.name for place in places if place.is_dir() for entry in place.iterdir()})
        seen = f"; there are {some(there)}" if there else ""
        wanted = f"looked for the folders {here.images} and {here.masks}"
        raise UserError(f"{self.name} ({self.split}) is not in {looked} ({wanted}{seen}): {self.how}{or_named(root)}")

    def list_pairs(self) -> dict[str, Pair]:
        """Name -> files; UserError if an image has no mask or a mask no image."""
        layout = self.layout
        masks = Side(layout.masks, layout.mask_ends, by_name(self.source, layout.masks, layout.mask_ends))
        beside = set(masks.paths.values())  # a mask beside its image is no image
        images = Side(layout.images, layout.image_ends, by_name(self.source, layout.images, layout.image_ends, True, beside))
        listed = self.listed(images, masks)
        both = (("image", "mask", images), ("mask", "image", masks))[: 1 + self.has_masks]
        names = set().union(*(side.paths for _, _, side in both)) if listed is None else listed
        for what, other, side in reversed(both):
            missing = sorted(names - side.paths.keys())
            if missing:
                remedy = f"or take the {other} away" if listed is None else "or take it off the list"
                raise UserError(
                    f"{join(str(self.source.path), side.folder)} has no {what} for {some(missing)}: get it again {remedy} "
                    f"({side.instead(self.source, missing[0])})"
                )
        if not names:
            raise UserError(f"no images in {self.source.where(images.folder)} ({images.instead(self.source)}): {self.how}")
        return {name: Pair(images.paths[name], masks.paths[name] if self.has_masks else "") for name in names}

    def listed(self, images: Side, masks: Side) -> set[str] | None:
        """The names that a list file selects; None if the set comes without lists."""
        if not self.layout.lists:
            return None
        for path in self.layout.lists:
            if self.source.has(path):
                return read_list(self.source, path, images, masks)
        raise UserError(f"{self.source.where(self.layout.lists[0])}, the list of {self.split}, is not there: {self.how}")

    def id_map(self) -> IdMap | ColourMap:
        """Raw values to train ids for the layout that was found."""
        return IdMap(self.about.ids, self.about.void)

    @property
    def train_ids(self) -> IdMap:
        """The map of masks that hold train ids already."""
        return IdMap(range(self.num_classes), (IGNORE,))

    @property
    def form(self) -> str:
        """What the masks were taken to hold, for messages; empty where they come in one form only."""
        if self.about is None or self.about.ids == self.train_ids.ids:
            return ""
        named = self.pairs[self.names[0]].mask.endswith(TRAIN_IDS)
        plain = named or self.ids.ids == self.train_ids.ids
        return "its masks hold train ids, which are not mapped again" if plain else "its masks hold the set's own ids, mapped to train ids"

    def _holds_train_ids(self) -> bool:
        """Told by the values of masks spread over the split: all can be train ids, and one cannot be a published id.

        Where many published ids lie beyond the train ids, many masks that show none of them settle it too.
        """
        masks = [mask for name in self.names if not (mask := self.pairs[name].mask).endswith((TRAIN_IDS, ".mat"))]
        if not masks or self.about is None or self.ids.ids == self.train_ids.ids:
            return False
        published, plain = {*self.ids.ids, *self.ids.void}, {*self.train_ids.ids, IGNORE}
        many = sum(value not in plain for value in self.ids.ids) >= BEYOND
        seen: set[int] = set()
        for path in masks[:: max(1, len(masks) // LOOKED_AT)] if many else masks[:4]:
            with suppress(UserError):  # who reads it says what is wrong with it
                seen.update(np.unique(self.raw_label(path)).tolist())
            if not seen <= plain:
                return False
        return not seen <= published or (many and len(masks) >= LOOKED_AT)

    def raw_label(self, path: str) -> np.ndarray:
        """What a mask file holds, before the id map: integers (H, W), or colours (H, W, 3) for a ColourMap."""
        return decode.decode_mask(self.source.read(path), self.source.where(path))

    def label(self, path: str) -> np.ndarray:
        """Train ids uint8 (H, W) of a mask file."""
        ids = self.train_ids if path.endswith(TRAIN_IDS) else self.ids
        return ids(self.raw_label(path), self.source.where(path))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[self.names[index]]
        image = decode.decode_image(self.source.read(pair.image), self.source.where(pair.image), self.as_stored)
        if not self.has_masks:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        label = self.label(pair.mask)
        decode.check_sizes(image, label, self.source.where(pair.image), self.source.where(pair.mask))
        return image, label

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, from the head of its file."""
        path = self.pairs[self.names[index]].image
        return decode.image_size(self.source.read(path), self.source.where(path))

    def fingerprint(self) -> str:
        """Digest of names, sizes, the id map and the masks' CRC-32, and up to ``WHOLE`` bytes of images of theirs too.

        So a changed mask, another list or an image of another size always shows. In a large set an image that was
        exchanged for one of the same number of bytes does not: reading all of COCO would take minutes at each start. A
        folder and an archive of the same files have the same digest.
        """
        pairs = [self.pairs[name] for name in self.names]
        sizes = [self.source.size(pair.image) for pair in pairs]
        whole = sum(sizes) <= WHOLE
        facts = (self.name, self.split, self.classes, self.ids.ids, self.ids.void)
        digest = hashlib.sha256(repr(facts).encode())
        for name, pair, size in zip(self.names, pairs, sizes):
            image = self.source.checksum(pair.image) if whole else None
            mask = (self.source.size(pair.mask), self.source.checksum(pair.mask)) if self.has_masks else ()
            digest.update(repr((name, size, image, *mask)).encode())
        return digest.hexdigest()
