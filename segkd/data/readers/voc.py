"""PASCAL VOC 2012: 1464 / 1449 images with 21 classes, and ``voc2012_aug``, which trains on SBD's masks too (10582).

Everingham et al., IJCV 2010; Hariharan et al., ICCV 2011 (SBD). Masks are palette PNGs, read as indices; 255 is void (and the
border of objects). The augmented list is (SBD's train and val and VOC's train) without VOC's val. Where VOC has a mask of its
own it is taken, for SBD's contours are coarser; SBD's .mat masks have no void. A folder ``SegmentationClassAug`` of PNGs, which
many repositories use, is read in place of the .mat files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segkd import decode
from segkd.data.files.layout import Layout, Pair, by_name, join, some
from segkd.data.files.lists import Side, read_list
from segkd.data.files.sources import Source
from segkd.data.files.unpack import sources
from segkd.data.readers.reader import Reader, register
from segkd.registry import UserError

LISTS = "ImageSets/Segmentation"
SBD_MASKS = ("benchmark_RELEASE/dataset/cls", "dataset/cls", "sbd/cls", "SBD/cls")


@register("voc2012")
class VOC2012(Reader):
    """One split of VOC 2012's segmentation task, in the .tar or unpacked."""

    bases = ("", "VOC2012", "VOCdevkit/VOC2012")
    layouts = (Layout("JPEGImages", "SegmentationClass", lists=(f"{LISTS}/{{split}}.txt",)),)


@register("voc2012_aug")
class VOC2012Aug(VOC2012):
    """VOC 2012 with the augmented train split; val is VOC's own."""

    def find(self, root: str | Path | None) -> tuple[Source, str, Layout]:
        """Where VOC is; if SBD's masks are not there, then with what is in the archives beside it."""
        source, base, layout = super().find(root)
        if self.split == "train" and not any(map(source.has_folder, (self._pngs(base), *SBD_MASKS))):
            *_, source = sources(source.path, self.about.archives)
        return source, base, layout

    def _pngs(self, base: str) -> str:
        return join(base, "SegmentationClassAug")

    def list_pairs(self) -> dict[str, Pair]:
        own = super().list_pairs()
        if self.split != "train":
            return own
        lists, images = join(self.base, LISTS), self._side(self.layout.images, ".jpg")
        val = read_list(self.source, f"{lists}/val.txt", images, self._side(self.layout.masks, ".png"))
        sbd = next(filter(self.source.has_folder, SBD_MASKS), None)
        if self.source.has_folder(self._pngs(self.base)):
            masks, listing, own = self._side(self._pngs(self.base), ".png"), f"{lists}/trainaug.txt", {}
            names = read_list(self.source, listing, images, masks) if self.source.has(listing) else masks.paths.keys() - val
        elif sbd:
            base, masks = sbd.removesuffix("/cls"), self._side(sbd, ".mat")
            images = images._replace(paths=self._side(f"{base}/img", ".jpg").paths | images.paths)
            names = set().union(*(read_list(self.source, f"{base}/{part}.txt", images, masks) for part in ("train", "val")))
            names = names - val - own.keys()
        else:
            raise UserError(f"{self.root} has neither SegmentationClassAug nor SBD's benchmark_RELEASE: {self.how}")
        for what, side in (("mask", masks), ("image", images)):
            missing = sorted(names - side.paths.keys())
            if missing:
                raise UserError(f"{self.source.path} has no {what} for {some(missing)} of the augmented list: get it again")
        return {name: Pair(images.paths[name], masks.paths[name]) for name in names} | own

    def _side(self, folder: str, end: str) -> Side:
        return Side(folder, (end,), by_name(self.source, folder, (end,)))

    def raw_label(self, path: str) -> np.ndarray:
        if path.endswith(".mat"):
            return decode.decode_mat(self.source.read(path), self.source.where(path), "GTcls", "Segmentation")
        return super().raw_label(path)
