"""Profiles: how large a study is. Sizes, lengths and the protocol, never a method's hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from segkd.config import DataConfig, NetworkConfig, Schedule
from segkd.data import list_datasets
from segkd.registry import UserError, unknown


@dataclass(frozen=True)
class Profile:
    """One scale. ``levels``: at most so many levels an ablation axis (None: all of the paper's)."""

    name: str
    seeds: int
    levels: int | None
    student: NetworkConfig
    teacher: NetworkConfig
    schedule: Schedule
    data: DataConfig | None  # at which size every data set is used; None: at its own, as the papers do
    shows: str  # what a reader may and may not conclude from it; printed on every page
    needs: str  # disk and time, said before it starts
    teacher_steps: float = 1.0  # a teacher trains this many times as long
    tables: dict[str, int | None] = field(default_factory=dict)  # those trained unasked, with so many seeds (None: all); {}: all
    own_protocols: bool = False  # each paper's networks, start, schedule, crop and augmentation (protocols.py) instead of these
    tuned: dict[str, dict[str, float]] = field(default_factory=dict)  # by data set: fields of the schedule, from table "tuning"

    def schedule_for(self, dataset: str) -> Schedule:
        """The schedule that all rows share on a data set: tuned for the baseline on val, where that was done."""
        return replace(self.schedule, **self.tuned.get(dataset, {}))

    def data_config(self, dataset: str, splits: tuple[str, ...] = ("train", "val", "test")) -> DataConfig:
        """Size and crop for a data set that has these ``splits``; the result is on test where there is one, else on val.

        UserError with the nearest name for a set that is not there.
        """
        if dataset not in list_datasets():
            raise unknown("data set", dataset, list_datasets())
        found = self.data or DataConfig(size=OWN_SIZE.get(dataset), crop=OWN_CROP.get(dataset, (512, 512)))
        return replace(found, name=dataset, split="test" if "test" in splits else "val")


def _lite(encoder: str, head_channels: int) -> NetworkConfig:
    """DeepLabV3+ without dilation, which CPUs are slow at: scores at stride 4 come from its decoder."""
    return NetworkConfig(f"deeplabv3plus/{encoder}", weights="imagenet", output_stride=32, head_channels=head_channels)


# Sizes and crops of the papers' protocols (methods.md 2.2); sets that are not named have images of many sizes.
OWN_SIZE = {"scenes": (360, 480), "camvid": (360, 480), "cityscapes": (1024, 2048)}
OWN_CROP = {"scenes": (360, 360), "camvid": (360, 360), "cityscapes": (512, 1024)}
# The CPU profiles crop at image size: a scale under 1 would leave padding, at the papers' 0.5 three quarters of a crop.
CPU_SCALE = (1.0, 1.5)
PRECISION = "Forward passes are bf16; RDD trained in float16 with loss scaling, the code of LAD, HWD and CIRKD in float32, and FAKD's text says nothing."


PROFILES = {
    p.name: p
    for p in (
        Profile(
            "smoke", seeds=1, levels=1,
            student=NetworkConfig("pspnet/resnet18", 0.125), teacher=NetworkConfig("pspnet/resnet18", 0.25),
            schedule=Schedule("adamw", steps=4, batch_size=2, lr=0.03, warmup=0.2, validations=2),
            data=DataConfig(size=(48, 64), scale=CPU_SCALE, train_limit=12, eval_limit=12),
            shows="That the code runs from end to end. Its numbers mean nothing.",
            needs="10 MB of disk and about a minute",
        ),
        Profile(
            "quick", seeds=2, levels=2,
            student=NetworkConfig("pspnet/resnet18", 0.125), teacher=NetworkConfig("pspnet/resnet18", 0.25),
            schedule=Schedule("adamw", steps=160, batch_size=4, lr=0.005, warmup=0.2, validations=4, precision="float64"),
            data=DataConfig(size=(96, 128), scale=CPU_SCALE),
            shows="That the whole pipeline works, what each page looks like, and that in float64 the same numbers come out on any "
            "x86-64 CPU. With two seeds, narrow networks, a 12x16 score grid and 160 steps its effects are expected to be "
            "inconclusive; do not quote them.",
            needs="0.4 GB of disk and about 15 minutes on two free cores",
            tables={"main": None, "distance": None, "shortcut": 1, "beta": 1, "tau": 1, "stages": 1, "controls": 1},
        ),
        Profile(
            "scratch", seeds=3, levels=None,
            student=NetworkConfig("pspnet/resnet18", 0.125), teacher=NetworkConfig("pspnet/resnet18", 0.25),
            schedule=Schedule("adamw", steps=1000, batch_size=4, lr=0.02, warmup=0.2, validations=10),
            teacher_steps=1.8,
            tuned={"camvid": {"lr": 0.01}},  # best val mIoU of the last step in the table "tuning"
            data=DataConfig(size=(192, 256), scale=CPU_SCALE),
            shows="Effects of a point of mIoU or more between methods that train a narrow network from random weights on "
            "a 24x32 score grid, given several seeds. It cannot show the papers' numbers: those need ImageNet weights, "
            "full width and 40,000 steps.",
            needs="2 GB of disk and CPU hours (on two cores about one per seed for the main comparisons, three with all "
            "ablations), or minutes on a GPU",
        ),
        Profile(
            "small", seeds=5, levels=3,
            student=_lite("efficientnet_lite0", 64), teacher=_lite("efficientnet_lite2", 96),
            schedule=Schedule("adamw", steps=800, batch_size=4, lr=0.006, warmup=0.1, validations=5, average=0.25),
            teacher_steps=1.25,
            data=DataConfig(size=(192, 256), scale=CPU_SCALE),
            shows="Effects of a point of mIoU or so between methods that train a small network from ImageNet weights on a 48x64 score "
            "grid. It cannot show the papers' numbers: those need their networks, larger images and two hundred times as many of them.",
            needs="50 GB of disk and CPU hours (on one core about six minutes a student, twice that a teacher), or minutes on a GPU",
            tables={
                "main": None, "rivals": 3, "controls": 3, "noise": 3, "shortcut": 3, "distance": 3, "lambda": 3, "beta": 3, "tau": 3,
                "mu": 3, "stages": 3, "mode": 3, "integration": 3,
            },
        ),
        Profile(
            "gpu", seeds=3, levels=None,
            student=NetworkConfig("deeplabv3/mobilenet_v2", 1.0, "imagenet"), teacher=NetworkConfig("deeplabv3/efficientnet_lite2", 1.0, "imagenet"),
            schedule=Schedule(steps=1000, batch_size=16, lr=0.02, precision="bf16"),
            teacher_steps=2.0,
            data=None,
            shows="Small networks from ImageNet weights on full CamVid images and the papers' 45x60 score grid, a fortieth of their "
            f"steps: orders of methods, not the papers' levels. {PRECISION}",
            needs="20 GB of disk and a GPU (by single steps on an H200, about a minute a student and three a teacher)",
        ),
        Profile(
            "paper", seeds=3, levels=None,
            student=NetworkConfig("deeplabv3/resnet18", 1.0), teacher=NetworkConfig("deeplabv3/resnet101", 1.0),
            schedule=Schedule(steps=40000, batch_size=16, lr=0.02, precision="bf16"),
            data=None, own_protocols=True,
            shows="Each paper's own protocol: its networks from ImageNet weights, its optimiser, steps, batch and crop on each "
            f"data set. It needs the weights' files (data/README.md); what the texts leave open is in segkd/study/tables/protocols.py. {PRECISION}",
            needs="50 GB of disk and GPU days",
        ),
    )
}


def get_profile(name: str) -> Profile:
    """A profile by name; UserError with the nearest one otherwise."""
    if name not in PROFILES:
        raise unknown("PROFILE", name, PROFILES)
    return PROFILES[name]


def seed_list(seeds: int | str | list[int] | None, profile: Profile) -> list[int]:
    """``None``: the profile's number; 3 or "3": seeds 0, 1, 2; "4,7" or [4, 7]: those two, "4,": that one."""
    if seeds is None or seeds == "":
        return list(range(profile.seeds))
    if isinstance(seeds, (list, tuple)):
        seeds = ",".join(map(str, seeds)) + ","
    try:
        parts = [int(s) for s in str(seeds).removesuffix(",").split(",")]
    except ValueError as error:
        raise UserError(f"SEEDS: '{seeds}' is neither a number of seeds nor a list such as 0,1,2") from error
    found = parts if "," in str(seeds) else list(range(parts[0]))
    if not found or min(found) < 0:
        raise UserError(f"SEEDS: '{seeds}' leaves no seed; give at least 1")
    return found
