"""Cityscapes: 2975 / 500 street images of 1024 x 2048 with 19 classes, from the two zip files or unpacked.

Cordts et al., CVPR 2016. Masks are ``*_labelIds.png`` (34 raw ids, mapped) or, where somebody made them with the set's own
scripts, ``*_labelTrainIds.png`` (used as they are). The labels of the 1525 test images are not public, so there is no test split.
"""

from __future__ import annotations

import numpy as np

from segkd.data.files.ids import IdMap
from segkd.data.files.layout import Layout, Pair
from segkd.data.readers.reader import Reader, register
from segkd.prediction import IGNORE

TRAIN_IDS = "_gtFine_labelTrainIds.png"


@register("cityscapes")
class Cityscapes(Reader):
    """One split of Cityscapes with its fine annotations; names are ``city_sequence_frame``."""

    layouts = (
        Layout("leftImg8bit/{split}", "gtFine/{split}", ("_leftImg8bit.png",), (TRAIN_IDS, "_gtFine_labelIds.png")),
    )

    def list_pairs(self) -> dict[str, Pair]:
        return {name.rpartition("/")[2]: pair for name, pair in super().list_pairs().items()}

    def label(self, path: str) -> np.ndarray:
        if not path.endswith(TRAIN_IDS):
            return super().label(path)
        return IdMap(range(self.num_classes), (IGNORE,))(self.raw_label(path), self.source.where(path))
