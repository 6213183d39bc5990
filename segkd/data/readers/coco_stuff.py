"""COCO-Stuff: 10K (9000 / 1000, .mat) and 164K (118287 / 5000, PNG), 171 classes; 164K also with 182 outputs.

Caesar, Uijlings, Ferrari, CVPR 2018. The labels go up to 182, but COCO never annotated 11 of its 91 things (street sign, hat,
shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush), so 171 classes have pixels. CIRKD's and HWD's
code trains 182 outputs and averages the IoU over 182, where an empty class counts as 0: such a score is 171/182 = 0.940 of the
mean over the classes that exist. ``coco_stuff164k_182`` is there to repeat it; nothing else should use it.
"""

from __future__ import annotations

import numpy as np

from segkd import decode
from segkd.data.files.layout import Layout
from segkd.data.readers.reader import TRAIN_IDS, Reader, register
from segkd.registry import UserError

MASK_ENDS = (".png", TRAIN_IDS)  # the second, made by mmsegmentation's script, counts where the first is not there


@register("coco_stuff10k")
class COCOStuff10K(Reader):
    """One split (train, test) of COCO-Stuff 10K v1.1: ``S`` in a .mat holds 1 to 182, 0 = unlabelled."""

    bases = ("", "cocostuff-10k-v1.1")
    layouts = (Layout("images", "annotations", mask_ends=(".mat",), lists=("imageLists/{split}.txt",)),)

    def raw_label(self, path: str) -> np.ndarray:
        return decode.decode_mat(self.source.read(path), self.source.where(path), "S")


@register("coco_stuff164k")
class COCOStuff164K(Reader):
    """One split of COCO-Stuff 164K: a mask holds the COCO id less one, 255 = unlabelled; in the three .zip or unpacked."""

    layouts = tuple(
        Layout(images, masks, mask_ends=MASK_ENDS)
        for images, masks in (
            ("images/{split}", "annotations/{split}"),
            ("images/{split}", "stuffthingmaps/{split}"),
            ("{split}", "annotations/{split}"),
            ("{split}", "stuffthingmaps/{split}"),
            ("{split}", "{split}"),  # the archives beside each other
        )
    )
    folder_of = {"train": "train2017", "val": "val2017"}


@register("coco_stuff164k_182")
class COCOStuff164K182(COCOStuff164K):
    """The same files with 182 train ids, 11 of which never occur (see above)."""

    def label(self, path: str) -> np.ndarray:
        if path.endswith(TRAIN_IDS):
            raise UserError(f"{self.source.where(path)} holds the 171 train ids, not COCO's 182: get the masks as published")
        return super().label(path)
