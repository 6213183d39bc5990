"""PASCAL Context: 4998 / 5105 images of VOC 2010, 59 classes with the rest ignored, or 60 with the rest as background.

Mottaghi et al., CVPR 2014. Masks are the distributed .mat files (``LabelMap``, 459 numbers of which 59 count) or the PNGs that
mmsegmentation's script makes of them (0 to 59, 0 = background), which has 4996 / 5104 of them.
"""

from __future__ import annotations

import numpy as np

from segkd import decode
from segkd.ids import IdMap
from segkd.data.files.layout import Layout
from segkd.data.readers.reader import Reader, register
from segkd.metrics import IGNORE

LISTS = ("ImageSets/SegmentationContext/{split}.txt", "{split}.txt", "pascalcontext_{split}.txt")
DEVKIT = "VOCdevkit/VOC2010"


@register("pascal_context")
class PascalContext(Reader):
    """One split with 59 classes; everything else is ignored."""

    bases = ("", "VOC2010", DEVKIT)
    layouts = (
        Layout("JPEGImages", "SegmentationClassContext", lists=LISTS),
        Layout("JPEGImages", "trainval", mask_ends=(".mat",), lists=LISTS),
        Layout(f"{DEVKIT}/JPEGImages", "trainval", mask_ends=(".mat",), lists=LISTS),  # the archives beside each other
    )
    rest = IGNORE

    def id_map(self) -> IdMap:
        if self.layout.mask_ends == (".mat",):
            return IdMap(self.about.mat_ids, rest=self.rest)
        return super().id_map()

    def raw_label(self, path: str) -> np.ndarray:
        if path.endswith(".mat"):
            return decode.decode_mat(self.source.read(path), self.source.where(path), "LabelMap")
        return super().raw_label(path)


@register("pascal_context60")
class PascalContext60(PascalContext):
    """One split with 60 classes: 0 is everything that is none of the 59."""

    rest = 0
