"""Cityscapes: 2975 / 500 street images of 1024 x 2048 with 19 classes, from the two zip files or unpacked.

Cordts et al., CVPR 2016. Masks are ``*_labelIds.png`` (34 raw ids, mapped) or, where somebody made them with the set's own
scripts, ``*_labelTrainIds.png`` (used as they are). The labels of the 1525 test images are not public, so there is no test split.
"""

from __future__ import annotations

from segkd.data.files.layout import Layout, Pair
from segkd.data.readers.reader import TRAIN_IDS, Reader, register


@register("cityscapes")
class Cityscapes(Reader):
    """One split of Cityscapes with its fine annotations; names are ``city_sequence_frame``."""

    layouts = (
        Layout("leftImg8bit/{split}", "gtFine/{split}", ("_leftImg8bit.png",), (f"_gtFine{TRAIN_IDS}", "_gtFine_labelIds.png")),
    )

    def list_pairs(self) -> dict[str, Pair]:
        return {name.rpartition("/")[2]: pair for name, pair in super().list_pairs().items()}
