"""Packing against plain decoding: real CamVid at 360x480, medians of three, all within one run.

Run with ``SEGKD_DATA=... python benchmarks/pack.py [FOLDER]``. "Decode" is one process that reads every image and label of the
three splits and keeps nothing. Packing also writes them: once into memory (FOLDER, default a tmpfs if there is one), which
shows what it costs by itself, and once onto the disk, which it waits for; beside that what writing as many bytes takes there.
The target is 1.6x on two cores.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from segkd.data import create_dataset
from segkd.data.downloads import is_here
from segkd.data.pool import cores
from segkd.data.readers.sets import about
from segkd.data.store import pack

SPLITS, SIZE, REPEATS = ("train", "val", "test"), (360, 480), 3
USUAL = {  # height and width of most images of a set
    "camvid": (360, 480), "cityscapes": (1024, 2048), "voc2012": (375, 500), "voc2012_aug": (375, 500),
    "pascal_context": (375, 500), "ade20k": (512, 683), "coco_stuff10k": (480, 640), "coco_stuff164k": (480, 640),
}  # fmt: skip
MEMORY = Path(sys.argv[1] if len(sys.argv) > 1 else "/dev/shm")


def seconds(work) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def cpu_seconds(work) -> float:
    """Time that a call computes in this process and its children; others on the machine hardly change it."""
    used = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # noqa: E731
    begin = used()
    work()
    return used() - begin


def decode() -> None:
    """Read all images and labels in this process."""
    for split in SPLITS:
        for _ in create_dataset("camvid", split=split):
            pass


def packing(place: Path | None) -> float:
    """Seconds for packing the three splits into an empty folder in ``place`` (None: where temporary files go)."""
    with tempfile.TemporaryDirectory(prefix="pack-", dir=place) as folder:
        return seconds(lambda: [pack("camvid", split, SIZE, packed_dir=folder) for split in SPLITS])


def writing(count: int) -> float:
    """Seconds until ``count`` bytes are on the disk, written by one process in one go."""
    with tempfile.NamedTemporaryFile() as file:
        return seconds(lambda: (file.write(bytes(count)), file.flush(), os.fdatasync(file.fileno())))


def main() -> None:
    """Print the tables."""
    if not is_here("camvid"):
        sys.exit("pack: no CamVid here; `make data DATASET=camvid` gets it")
    images = sum(len(create_dataset("camvid", split=split)) for split in SPLITS)
    total = images * SIZE[0] * SIZE[1] * 4
    turns = [(seconds(decode), packing(MEMORY), packing(None), writing(total)) for _ in range(REPEATS)]  # a busy spell meets all
    plain, memory, disk, floor = (statistics.median(times) for times in zip(*turns))
    print(f"CamVid, {images} images at {SIZE[0]}x{SIZE[1]}, {total / 1e6:.0f} MB, {cores()} cores, median of {REPEATS}")
    print(f"  decode, one process          {plain:6.2f} s  {images / plain:5.0f} images/s")
    print(f"  pack into memory             {memory:6.2f} s  {images / memory:5.0f} images/s  {plain / memory:.2f}x decode")
    print(f"  pack onto the disk, waited   {disk:6.2f} s  {images / disk:5.0f} images/s  {plain / disk:.2f}x decode")
    print(f"  write as many bytes there    {floor:6.2f} s")
    print(f"  load of the machine          {os.getloadavg()[0]:6.2f} (above {cores()}: others were computing)")
    reading, both = cpu_seconds(decode), cpu_seconds(lambda: packing(MEMORY))
    print(f"  CPU time: decode {reading:.2f} s, pack {both:.2f} s: at most {cores() * reading / both:.2f}x on {cores()} free cores")
    print("\n".join(["", *all_sets(images * SIZE[0] * SIZE[1] / both * 2)]))


def all_sets(rate: float) -> list[str]:
    """A Markdown table of what each set takes, packed at its own sizes; ``rate``: pixels packed in a second by two free cores."""
    lines = ["| set | images | usual size | pack, GB | minutes |", "| --- | ---: | --- | ---: | ---: |"]
    for name, (height, width) in USUAL.items():
        images = sum(about(name).splits.values())
        pixels = images * height * width
        lines.append(f"| {name} | {images:,} | {height} x {width} | {4 * pixels / 1e9:.1f} | {pixels / rate / 60:.2f} |")
    return [*lines, f"| scenes | 701 | drawn at 96 x 128 | {701 * 96 * 128 * 4 / 1e9:.2f} | {drawing() / 60:.2f} |"]


def drawing() -> float:
    """Seconds on two free cores for drawing and packing all scenes at the size of the quick profile, from a fifth of them."""
    with tempfile.TemporaryDirectory(prefix="pack-") as folder:
        fifth = {split: len(create_dataset("scenes", split=split)) // 5 for split in SPLITS}
        taken = cpu_seconds(lambda: [pack("scenes", split, (96, 128), packed_dir=folder, limit=n) for split, n in fifth.items()])
        return taken / 2 * sum(len(create_dataset("scenes", split=split)) for split in SPLITS) / sum(fifth.values())


if __name__ == "__main__":
    main()
