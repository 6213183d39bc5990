"""ADE20K in the 150 classes of the scene parsing challenge: 20210 / 2000 images, from the .zip or unpacked.

Zhou et al., CVPR 2017. A mask holds 1 to 150; 0 ("other objects") is ignored, so that train id n is raw value n + 1.
"""

from __future__ import annotations

from segkd.data.files.layout import Layout
from segkd.data.readers.reader import Reader, register


@register("ade20k")
class ADE20K(Reader):
    """One split of ADE20K; ``val`` is the set's ``validation``. The test masks are not public."""

    bases = ("", "ADEChallengeData2016")
    layouts = (Layout("images/{split}", "annotations/{split}"),)
    folder_of = {"train": "training", "val": "validation"}
