"""How fast batches are delivered, and what share of a training step they take.

``python benchmarks/data.py`` prints a table and writes results/data.csv and results/data.md beside this file;
``--quick`` (two rounds) prints only. Rates are those of two processes with one thread each, as training uses two cores,
all kinds of work in turns in the same processes, medians over the rounds; every work delivers 360x360 crops of CamVid at
360x480, or of scenes where CamVid is not there.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import cell, environment, write

from segkd.config import DataConfig, RunConfig, Schedule
from segkd.data.store import Packed, pack
from segkd.models.images import IMAGENET
from segkd.registry import UserError
from segkd.study.tables.profiles import get_profile
from segkd.train.ahead import ahead
from segkd.train.loop import training_batch
from segkd.train.trainee import Trainee

SIZE, CROP, BATCH, IMAGES = (360, 480), (360, 360), 16, 96
PROCESSES, TARGET, TARGET_RATIO, TARGET_SHARE = 2, 1500, 5, 0.05
COLUMNS = ("what", "value", "unit", "target", "met")
NOTES = (
    "Crops a second: two processes with one thread each, batches of 16 from the pack, image in float32 and label in "
    "int64, augmentation of the papers' protocol (scale 0.5 to 2, crop, flip). *Normalised* also subtracts the mean and "
    "divides by the deviation, which in training the network does. Floor: reading as many bytes as the crops have and "
    "writing them as float32 and int64, nothing else. Torchvision: its v2 transforms, image by image, PNG decoded each "
    "time, normalised; without antialiasing, as ours, and with it, its default. *Processor* rates count the processor's seconds, not the clock's, and "
    "are what two processors that do nothing else give, less what other work takes of caches and memory: where they "
    "are far above the others, this machine was busy. Share, in processor time on one thread: one batch over one batch "
    "and one training step of a single student without teacher, the least work that a batch is ever made for. Waited, by "
    "the clock: the part of a step in which training waits for its batch, which a thread makes on the other core while the "
    "step before trains; where that core trains another run, the share is what a batch costs."
)


@dataclass(frozen=True)
class Source:
    """What the processes read: a pack by name, and the same images as PNG files."""

    name: str
    folder: Path

    def packed(self) -> Packed:
        return pack(self.name, "train", SIZE, packed_dir=self.folder / "packed", limit=IMAGES)

    def write_png(self) -> None:
        packed = self.packed()
        for kind, arrays in (("image", packed.images), ("label", packed.labels)):
            for i, array in enumerate(arrays):
                Image.fromarray(array).save(self.folder / f"{kind}-{i}.png")


def find_source(folder: Path) -> Source:
    """CamVid where it lies under SEGKD_DATA, otherwise scenes at its size."""
    for name in ("camvid", "scenes"):
        try:
            source = Source(name, folder)
            source.packed()
            return source
        except UserError as error:
            print(f"{name}: {error}")
    raise SystemExit("no images to read")


def deliver(packed: Packed, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step as training makes it."""
    data = DataConfig(packed.name, SIZE, CROP)
    return training_batch(packed, RunConfig(data=data, schedule=Schedule(batch_size=BATCH)), step)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """As the network does, in place."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    for image in images:  # one at a time stays in the cache
        image.sub_(mean).div_(std)
    return images


def works(source: Source) -> dict:
    """Name -> work that delivers one batch, given its number."""
    packed = source.packed()
    crops = torch.zeros(BATCH, 3, *CROP, dtype=torch.uint8), torch.zeros(BATCH, *CROP, dtype=torch.uint8)
    return {
        "ours": lambda step: deliver(packed, step),
        "ours, normalised": lambda step: normalise(deliver(packed, step)[0]),
        "floor": lambda step: (crops[0].float(), crops[1].long()),
        "torchvision": torchvision_pipeline(source, antialias=False),
        "torchvision, antialiased": torchvision_pipeline(source, antialias=True),
    }


def torchvision_pipeline(source: Source, antialias: bool):
    """The same augmentation by torchvision.transforms.v2, from PNG files, image by image; it antialiases unless told not to."""
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    fill = {tv_tensors.Image: [round(255 * value) for value in IMAGENET.mean], tv_tensors.Mask: 255}
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}
    transform = v2.Compose([
        v2.RandomResize(SIZE[0] // 2, 2 * SIZE[0] + 1, antialias=antialias),
        v2.RandomCrop(CROP, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(types, scale=True),
        v2.Normalize(IMAGENET.mean, IMAGENET.std),
    ])  # fmt: skip

    def load(i: int):
        image = tv_tensors.Image(decode_image(str(source.folder / f"image-{i}.png"), ImageReadMode.RGB))
        label = tv_tensors.Mask(decode_image(str(source.folder / f"label-{i}.png"), ImageReadMode.UNCHANGED)[0])
        return transform(image, label)

    def batch(step: int):
        pairs = [load((BATCH * step + i) % IMAGES) for i in range(BATCH)]
        return tuple(torch.stack(parts) for parts in zip(*pairs))

    return batch


def worker(source: Source, rounds: int, seconds: float, start, results) -> None:
    """Rates of every work, round by round, each begun together with the other processes."""
    torch.set_num_threads(1)
    kinds, found = works(source), {}
    for work in kinds.values():
        work(0)
    for turn in range(rounds):
        for name in list(kinds)[:: (-1) ** turn]:
            start.wait()
            begin, processor, count = time.perf_counter(), time.process_time(), 0
            while count == 0 or time.perf_counter() - begin < seconds:
                kinds[name](turn + count)
                count += 1
            crops, used = BATCH * count, time.process_time() - processor
            found.setdefault(name, []).append((crops / (time.perf_counter() - begin), crops / used))
    results.put(found)


def rates(source: Source, rounds: int, seconds: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
    """Medians over the rounds of the crops a second of all processes together: by the clock and by processor time."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=worker, args=(source, rounds, seconds, start, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    turns = {name: list(zip(*(one[name] for one in found))) for name in found[0]}  # rounds of (clock, processor) pairs
    sums = [{name: [sum(pair[i] for pair in turn) for turn in turns[name]] for name in turns} for i in range(2)]
    return tuple({name: statistics.median(values) for name, values in each.items()} for each in sums)


def rate_rows(source: Source, rounds: int) -> list[tuple]:
    rows = []
    for clock, found in zip(("", "processor: "), rates(source, rounds)):
        ours, whole = found["ours"], found["ours, normalised"]
        ratio, usual = whole / found["torchvision"], whole / found["torchvision, antialiased"]
        rows += [
            (f"{clock}crops of {source.name} delivered", ours, "a second", TARGET, ours >= TARGET),
            (f"{clock}crops delivered, normalised", whole, "a second", TARGET, whole >= TARGET),
            (f"{clock}floor", found["floor"], "a second", None, None),
            (f"{clock}floor over delivered", found["floor"] / ours, "times", None, None),
            (f"{clock}torchvision with PNG decode", found["torchvision"], "a second", None, None),
            (f"{clock}delivered, normalised, over torchvision", ratio, "times", TARGET_RATIO, ratio >= TARGET_RATIO),
            (f"{clock}delivered, normalised, over torchvision that antialiases, its default", usual, "times", None, None),
        ]
    return rows


def step_share(profile: str, rounds: int, batch_size: int | None = None) -> tuple[float, float, float, float]:
    """(ms of the batch, ms of the step, share of the batch in both, share waited) for a baseline student of a profile."""
    found = get_profile(profile)
    schedule = replace(found.schedule, batch_size=batch_size or found.schedule.batch_size)
    config = RunConfig(data=found.data_config("scenes"), network=found.student, schedule=schedule)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack("scenes", "train", config.data.size, packed_dir=folder, limit=24)
        trainee = Trainee(config, packed.num_classes, None, torch.device("cpu"))
        times = []
        for step in range(rounds + 1):
            begin = time.process_time()
            images, labels = training_batch(packed, config, step)
            middle = time.process_time()
            trainee.train_step(images, labels, None)
            times.append((1e3 * (middle - begin), 1e3 * (time.process_time() - middle)))
        waits = waited(trainee, packed, config, rounds)
    data, train = (statistics.median(part) for part in zip(*times[1:]))  # the first loads code
    return data, train, data / (data + train), waits


def waited(trainee: Trainee, packed: Packed, config: RunConfig, rounds: int) -> float:
    """Share of a step's time, by the clock, in which training waits for its batch, made in a thread as training makes it."""
    times = []
    with ahead(lambda step: training_batch(packed, config, step), rounds + 2) as batches:
        for step in range(rounds + 1):
            begin = time.perf_counter()
            images, labels = batches(step)
            middle = time.perf_counter()
            trainee.train_step(images, labels, None)
            times.append((middle - begin, time.perf_counter() - middle))
    waits, train = (statistics.median(part) for part in zip(*times[1:]))  # nothing is made ahead of the first
    return waits / (waits + train)


def share_rows(rounds: int) -> list[tuple]:
    rows = []
    for profile, batch_size, repeats in (("quick", None, 10 * rounds), ("scratch", None, 4 * rounds), ("gpu", 4, 2)):
        data, train, share, waits = step_share(profile, repeats, batch_size)
        note = f" (batch {batch_size})" if batch_size else ""
        rows += [
            (f"profile {profile}{note}: batch", data, "ms", None, None),
            (f"profile {profile}{note}: step", train, "ms", None, None),
            (f"profile {profile}{note}: share of the batch", 100 * share, "%", 100 * TARGET_SHARE, share <= TARGET_SHARE),
            (f"profile {profile}{note}: waited for the batch", 100 * waits, "%", 100 * TARGET_SHARE, waits <= TARGET_SHARE),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    where, rounds = environment(f"NumPy {np.__version__}"), 2 if quick else 7
    print(where)
    with tempfile.TemporaryDirectory() as folder:
        source = find_source(Path(folder))
        source.write_png()
        rows = [*rate_rows(source, rounds), *share_rows(rounds)]
    print("\n".join(" | ".join(map(cell, row)) for row in rows))
    if not quick:
        write("data", "Delivery of batches", COLUMNS, rows, where, NOTES)


if __name__ == "__main__":
    main()
