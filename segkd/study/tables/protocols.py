"""How each paper trains on each data set: what ``PROFILE=paper`` uses, with what the texts leave open."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segkd.config import DataConfig, NetworkConfig, Schedule

MMSEG = {"continuous_scale": True, "cat_max_ratio": 0.75, "photometric": True}
# Where an encoder's ImageNet weights come from: the CIRKD family's own files, which expect BGR in 0-255 (their layout says
# so), looked for under $SEGKD_WEIGHTS; else timm's. STDC has none here, as in LAD's baselines.
WEIGHTS = {"resnet18": "resnet18-imagenet.pth", "resnet101": "resnet101-imagenet.pth", "mobilenet_v2": "mobilenetv2-imagenet.pth"}
NO_WEIGHTS = ("stdc1", "stdc2")


@dataclass(frozen=True)
class Protocol:
    """A training as a paper describes it. ``source``: where its numbers stand and what is inferred."""

    schedule: Schedule
    crop: tuple[int, int]  # (H, W) of a training crop
    source: str
    student: str = "deeplabv3/resnet18"
    teacher: str = "deeplabv3/resnet101"
    teacher_steps: int | None = None  # None: as many as the student's
    mmseg: bool = False  # the augmentation of mmseg: scale drawn continuously, crops without one dominant class, colours

    def data(self, config: DataConfig) -> DataConfig:
        """A data set cropped and augmented as the protocol says."""
        return replace(config, crop=self.crop, **(MMSEG if self.mmseg else {}))


def _sgd(lr: float, weight_decay: float, steps: int, batch: int = 16) -> Schedule:
    """SGD with momentum 0.9 under poly 0.9, no warm-up, auxiliary weight 0.4: common to all four papers."""
    return Schedule("sgd", steps, batch, lr, 0.9, weight_decay, 0.9, 0.0, 0.4, precision="bf16")


WIDE, SQUARE, CAMVID = (512, 1024), (512, 512), (360, 360)
_LAD = "the text names no optimiser; the released code's, with the learning rate of its training from ImageNet weights"
_LAD5 = "inferred: the baselines are mmseg's, so its schedule and augmentation"
_FAKD = "text; weight decay not stated: mmseg's, on which its networks rest"
_HWD = "released code, as the text names none"
_RDD = "text; batch size of the released scripts; its mixed precision, float16, is bf16 here"

# By paper and data set; a third name is a printed table with a protocol of its own.
PROTOCOLS: dict[tuple[str, ...], Protocol] = {
    ("lad", "cityscapes"): Protocol(_sgd(0.02, 1e-4, 40000), WIDE, _LAD),
    ("lad", "voc2012"): Protocol(_sgd(0.02, 1e-4, 40000), SQUARE, _LAD),
    ("lad", "ade20k"): Protocol(_sgd(0.02, 1e-4, 40000), SQUARE, _LAD),
    ("lad", "coco_stuff164k"): Protocol(_sgd(0.02, 1e-4, 80000), SQUARE, _LAD),
    ("lad", "ade20k", "Table 5"): Protocol(_sgd(0.01, 5e-4, 80000), SQUARE, _LAD5, mmseg=True),
    ("lad", "voc2012", "Table 5"): Protocol(_sgd(0.01, 5e-4, 20000), SQUARE, _LAD5, mmseg=True),
    ("lad", "coco_stuff10k", "Table 5"): Protocol(_sgd(0.01, 5e-4, 20000), SQUARE, _LAD5, mmseg=True),
    ("lad", "coco_stuff164k", "Table 5"): Protocol(_sgd(0.01, 5e-4, 80000), SQUARE, _LAD5, mmseg=True),
    ("hwd", "cityscapes"): Protocol(_sgd(0.01, 1e-4, 40000, 8), SQUARE, _HWD),
    ("hwd", "ade20k"): Protocol(_sgd(0.01, 1e-4, 40000, 8), SQUARE, _HWD),
    ("hwd", "coco_stuff164k"): Protocol(_sgd(0.01, 1e-4, 40000, 8), SQUARE, _HWD),
    ("rdd", "cityscapes"): Protocol(_sgd(0.02, 5e-4, 40000), WIDE, _RDD),
    ("rdd", "camvid"): Protocol(_sgd(0.02, 5e-4, 40000), CAMVID, _RDD),
    ("rdd", "voc2012"): Protocol(_sgd(0.02, 5e-4, 40000), SQUARE, _RDD),
    ("rdd", "ade20k"): Protocol(_sgd(0.02, 5e-4, 80000), SQUARE, _RDD),
}
# FAKD: learning rate, weight decay (mmseg's on that set) and the steps of its plain teacher, from mmseg's model zoo.
_FAKD_SETS = {
    "ade20k": (0.01, 5e-4, 160000), "pascal_context": (0.004, 1e-4, 80000), "cityscapes": (0.01, 5e-4, 80000),
    "voc2012": (0.01, 5e-4, 40000),
}  # fmt: skip
PROTOCOLS |= {
    ("fakd", name): Protocol(_sgd(lr, decay, 40000), SQUARE, _FAKD, "pspnet/resnet18", "pspnet/resnet101", teacher_steps)
    for name, (lr, decay, teacher_steps) in _FAKD_SETS.items()
}
FIRST = {"lad": "cityscapes", "fakd": "ade20k", "hwd": "cityscapes", "rdd": "cityscapes"}  # the set of a paper's first protocol
CROPS = {"scenes": CAMVID, "camvid": CAMVID, "cityscapes": WIDE}  # on sets that a paper does not use; 512x512 elsewhere


def protocol(paper: str, dataset: str, table: str = "") -> Protocol:
    """The protocol of a paper on a data set, of one printed table where it has its own.

    On a set that the paper does not use: its first one's schedule, with that set's crop. ``all`` trains as RDD does.
    """
    paper = paper if paper in FIRST else "rdd"
    for key in ((paper, dataset, table), (paper, dataset)):
        if key in PROTOCOLS:
            return PROTOCOLS[key]
    first = PROTOCOLS[paper, FIRST[paper]]
    source = f"{first.source}; not a data set of this paper: trained as on {FIRST[paper]}"
    return replace(first, crop=CROPS.get(dataset, SQUARE), source=source, teacher_steps=None)


def network(name: str, start: str = "imagenet") -> NetworkConfig:
    """A network at full width, from ImageNet weights where it has them; ``start="scratch"``: from random ones."""
    encoder = name.split("/", 1)[1]
    weights = None if start == "scratch" or encoder in NO_WEIGHTS else WEIGHTS.get(encoder, "imagenet")
    return NetworkConfig(name, weights=weights)
