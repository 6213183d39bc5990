"""``folder``: any directory (or .zip, or .tar) of images and masks that a segkd.yaml in it describes.

docs/your-own-data.md says how. The description gives the classes, what a mask holds (class numbers or colours), what is ignored
and how the images are split; folder_config.py checks it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkd.data.catalog import DATASETS, or_named, root_candidates
from segkd import decode
from segkd.ids import ColourMap, IdMap
from segkd.data.files.layout import Layout, Pair, join
from segkd.data.files.sources import Source
from segkd.data.files.unpack import sources
from segkd.data.readers.folder_config import SPLITS, UNLABELLED, FolderConfig, parse_config
from segkd.data.readers.reader import Reader
from segkd.registry import UserError

DESCRIPTION = "segkd.yaml"


@DATASETS.register("folder")
class FolderDataset(Reader):
    """One split of a described folder; ``classes`` and ``palette`` are the description's.

    ``root``: the folder, the archive, or a description of another name in the folder (``root="data/roads.yaml"``).
    """

    name = "folder"
    classes, palette, splits = (), (), (*SPLITS, UNLABELLED)
    how = f"describe the folder by a {DESCRIPTION} in it (docs/your-own-data.md)"
    as_stored = False
    config: FolderConfig

    def find(self, root: str | Path | None) -> tuple[Source, str, Layout]:
        self.source, base, name = self._find_description(root)
        path = join(base, name)
        self.config = parse_config(self.source.read(path), self.source.where(path))
        self.classes, self.palette, self.has_masks = self.config.classes, self.config.palette, self.split != UNLABELLED
        if self.config.split_kind == "folder" and self.source.names(join(base, self.config.files.images.replace("{split}", UNLABELLED))):
            self.config = replace(self.config, splits=self.config.splits | {UNLABELLED: self.config.splits.get(UNLABELLED, UNLABELLED)})
        layout = self.config.layout(self.split).at(base, "")
        for folder in (layout.images, layout.masks)[: 1 + self.has_masks]:
            if not self.source.has_folder(folder):
                raise UserError(f"{self.source.path / folder} is not there, which {self.config.where} names: mend one of them")
        return self.source, base, layout

    def _find_description(self, root: str | Path | None) -> tuple[Source, str, str]:
        """The source, the folder in it and the file name of the description."""
        places = root_candidates(root, ("folder",))
        for place in places:
            if place.suffix in (".yaml", ".yml") and place.is_file():
                return Source(place.parent), "", place.name
            if not place.exists():
                continue
            source = next(sources(place))
            if source.has(DESCRIPTION):
                return source, "", DESCRIPTION
            tops = {name.partition("/")[0] for name in source.names()} if place.is_file() else set()
            for top in sorted(tops):  # an archive of one folder
                if source.has(f"{top}/{DESCRIPTION}"):
                    return source, top, DESCRIPTION
        looked = ", ".join(map(str, places))
        raise UserError(f"no {DESCRIPTION} in {looked}: {self.how}{or_named(root)}")

    def list_pairs(self) -> dict[str, Pair]:
        pairs = super().list_pairs()
        if self.config.split_kind != "share" or not pairs:
            return pairs
        chosen = {name: pair for name, pair in pairs.items() if self.config.in_share(self.split, name)}
        if not chosen:
            share = f"{self.split}, {self.config.splits[self.split]:g} of all"
            raise UserError(f"{self.config.where}: none of {len(pairs)} images falls into {share}: add images or use lists")
        return chosen

    def id_map(self) -> IdMap | ColourMap:
        return self.config.ids

    def raw_label(self, path: str) -> np.ndarray:
        data, where = self.source.read(path), self.source.where(path)
        if self.config.masks_hold == "colours":
            return decode.decode_colours(data, where)
        return decode.decode_mask(data, where, palette=self.config.masks_hold == "palette")


def content(root: str | Path | None = None) -> str:
    """Eight hex digits over description, images and masks of all splits of a described folder, by which runs know it wherever it lies."""
    splits = FolderDataset(root, "train").config.splits
    prints = {split: FolderDataset(root, split).fingerprint() for split in sorted(splits)}
    return hashlib.sha256(repr(prints).encode()).hexdigest()[:8]
