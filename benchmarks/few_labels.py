"""Few labels: what a trained start, distillation and images without labels bring. Test mIoU on CamVid.

    SEGKD_DATA=... python benchmarks/few_labels.py           # resumes; few_labels.csv grows with every number of labels
    python benchmarks/few_labels.py --page                   # only the block of docs/your-own-data.md, from few_labels.csv

Of CamVid's 367 training images a draw by the seed keeps the first 20, 50, 100 or all with their labels; the rest are there
without. Networks and recipe are those of the profile `small` (DeepLabV3+ on EfficientNet-Lite0, its teacher on Lite2), the same
for every row. Chosen by cost alone, before any score was seen, so that all fits 5,500 CPU seconds: 128x160 pixels, 240 steps
of 4 images, also for the teacher, which learns from the same labels; 4 images without labels beside them where a row says so.
Seed by seed, few labels first: whenever it is stopped, what is done is a table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from PIL import Image

from segkd.config import ROOT, DataConfig, RunConfig
from segkd.data import create_dataset
from segkd.data.packing import resize
from segkd.data.readers.folder import content
from segkd.data.sampler import batch_indices
from segkd.runs import run_cohort
from segkd.study.numbers.results import paired
from segkd.study.numbers.statistics import Estimate
from segkd.study.tables.profiles import CPU_SCALE, get_profile
from segkd.train.state import write_whole

CSV, PAGE = Path(__file__).with_suffix(".csv"), ROOT / "docs" / "your-own-data.md"
PICTURE = PAGE.with_name("few-labels.svg")
BEGIN, END = "<!-- few labels: written by benchmarks/few_labels.py -->", "<!-- end of few labels -->"
SIZE, STEPS, BESIDE = (128, 160), 240, 4
LABELS, SEEDS, METHODS = (20, 50, 100, 367), (0, 1, 2), ("cwd", "dist")
RANDOM, TRAINED, TEACHER, MORE = "baseline, random weights", "baseline, trained weights", "teacher", "{}, with images without labels"
QUESTIONS = {  # what is asked -> the rows whose difference answers it
    "trained instead of random weights, baseline": (TRAINED, RANDOM),
    **{f"{method} instead of the baseline": (method, TRAINED) for method in METHODS},
    **{f"images without labels beside, {method}": (MORE.format(method), method) for method in METHODS},
    **{f"{method} with images without labels instead of the baseline": (MORE.format(method), TRAINED) for method in METHODS},
}


def write_images(folder: Path) -> dict[str, list[str]]:
    """CamVid at `SIZE` as a user's folder would hold it, images/<split>/*.png and masks of train ids; names of each split."""
    names = {}
    for split in ("train", "val", "test"):
        dataset = create_dataset("camvid", split=split)
        names[split] = [f"{split}/{name}" for name in dataset.names]
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for image, label, name in dataset:
            parts = (("images", image, Image.Resampling.BILINEAR), ("masks", label, Image.Resampling.NEAREST))
            for kind, array, how in parts:
                Image.fromarray(resize(array, SIZE, how)).save(folder / kind / split / f"{name}.png")
    return names


def describe(folder: Path, names: dict[str, list[str]], labels: int, seed: int) -> Path:
    """The description of the folder in which ``labels`` training images, drawn by the seed, have their masks."""
    train = names["train"]
    kept = [train[i] for i in batch_indices(len(train), len(train), 0, seed)[:labels]]
    lists = {**names, "train": kept, "unlabelled": sorted({*train} - {*kept})}
    place = f"{labels}-{seed}"
    (folder / place).mkdir()
    for split, chosen in lists.items():
        (folder / place / f"{split}.txt").write_text("\n".join(chosen))
    values = {
        "classes": [{"name": n, "colour": list(c)} for n, c in zip(*(getattr(create_dataset("camvid"), k) for k in ("classes", "palette")))],
        "splits": {split: f"{place}/{split}.txt" for split, chosen in lists.items() if chosen},
    }
    (folder / f"{place}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{place}.yaml"


def configs(description: Path, seed: int) -> list[dict[str, RunConfig]]:
    """The rows of one seed and number of labels; those of a dictionary step together."""
    profile = get_profile("small")
    data = DataConfig("folder", SIZE, scale=CPU_SCALE, root=str(description), content=content(description))
    schedule = replace(profile.schedule, steps=STEPS, validations=1)
    trained = RunConfig(data, profile.student, schedule, seed=seed)
    teacher = replace(trained, network=profile.teacher)
    plain = {RANDOM: replace(trained, network=replace(profile.student, weights=None)), TRAINED: trained, TEACHER: teacher}
    taught = {method: replace(trained, method=method, teacher=teacher) for method in METHODS}
    beside = {MORE.format(method): replace(config, unlabelled=BESIDE) for method, config in taught.items()}
    return [plain, taught] + ([beside] if "unlabelled" in yaml.safe_load(description.read_text())["splits"] else [])


def measure(seeds: tuple[int, ...] = SEEDS, labels: tuple[int, ...] = LABELS) -> None:
    """Train what is missing and write the CSV anew after each number of labels."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        names = write_images(Path(place))
        for seed in seeds:
            for count in labels:
                begin = time.process_time()
                for group in configs(describe(Path(place), names, count, seed), seed):
                    for row, run in zip(group, run_cohort(list(group.values()), "cpu")):
                        rows.append({"seed": seed, "labels": count, "row": row, "miou": run.result["miou"], "run": run.id})
                write_whole(CSV, lambda path: pd.DataFrame(rows).to_csv(path, index=False))
                print(f"seed {seed}, {count} labels: {time.process_time() - begin:.0f} CPU seconds", flush=True)


def values_of(frame: pd.DataFrame) -> Callable[[str, int], pd.Series]:
    """``values(row, labels)``: the scores in percent, by seed."""
    score = frame.assign(miou=100 * frame["miou"]).pivot(index="seed", columns=["row", "labels"], values="miou")
    return lambda row, count: score[row, count].dropna() if (row, count) in score else pd.Series(dtype=float)


def differences(frame: pd.DataFrame) -> dict[str, dict[int, Estimate]]:
    """What each question's rows differ by, by the number of labels; without those that no seed has."""
    values, counts = values_of(frame), sorted(frame["labels"].unique())
    found = {name: {n: paired(*(values(row, n) for row in rows)) for n in counts} for name, rows in QUESTIONS.items()}
    return {name: {n: one for n, one in each.items() if one.n} for name, each in found.items()}


def draw(found: dict[str, dict[int, Estimate]]) -> Figure:
    """Gains over the number of labels with their intervals; the trained start apart, for its gain is of another size."""
    start, *rest = QUESTIONS
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axis, names in zip(figure.subplots(1, 2), ([start], [name for name in rest if "instead" in name])):
        for place, name in enumerate(names):
            ones = found[name].values()
            reach = np.reshape([(one.mean - one.low, one.high - one.mean) for one in ones], (-1, 2)).T
            beside = [n * 1.06 ** (place - len(names) // 2) for n in found[name]]
            axis.errorbar(beside, [one.mean for one in ones], reach, fmt=".-", color=f"C{place}", capsize=3, lw=1, label=name)
        axis.axhline(0, color="0.6", lw=1, zorder=0)
        axis.set(xscale="log", xlabel="training images with labels", ylabel="points of mIoU")
        axis.set_xticks(LABELS, LABELS)
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def block(path: Path = CSV) -> str:
    """What stands in docs/your-own-data.md: scores, paired differences, and what they say; empty without results."""
    if not path.exists():
        return ""
    frame = pd.read_csv(path)
    values, counts, found = values_of(frame), sorted(frame["labels"].unique()), differences(frame)
    line = lambda name, cells: f"| {name} | {' | '.join(cells)} |"  # noqa: E731
    seeds = frame.groupby("labels")["seed"].nunique()
    head = [line("", [f"{n} labels ({seeds[n]} seeds)" for n in counts]), line("---", ["---"] * len(counts))]
    means = [line(row, [f"{v.mean():.1f}" if len(v := values(row, n)) else "" for n in counts]) for row in dict.fromkeys(frame["row"])]
    gains = [line(name, [str(each[n]) if n in each else "" for n in counts]) for name, each in found.items()]
    size, more = "x".join(map(str, SIZE)), paired(values(TRAINED, counts[-1]), values(TRAINED, counts[0]))
    text = [
        f"Test mIoU on CamVid in percent, mean over seeds, {size} pixels, {STEPS} steps (`benchmarks/few_labels.py`, every run in its CSV):",
        "", *head, *means, "",
        "Differences of the same seeds in points, with their 95 % interval:", "",
        *head, *gains, "",
        f"A batch with images without labels beside holds {BESIDE} of them and the same labelled ones, so the student sees twice as many images in as many steps.", "",
        f"![Gains over the number of labels, with their 95 % intervals]({PICTURE.name})", "",
        *(f"- {name}: {said(each)}." for name, each in found.items()),
        *[f"- {counts[-1]} instead of {counts[0]} labels, baseline, trained weights: {more}, {more.verdict}."] * (more.n > 1),
    ]  # fmt: skip
    return "\n".join(text) + "\n"


def said(each: dict) -> str:
    """At how many labels the interval leaves zero out, and on which side."""
    verdicts = {n: one.verdict for n, one in each.items()}
    groups = {word: [str(n) for n, found in verdicts.items() if found == word] for word in dict.fromkeys(verdicts.values())}
    return "; ".join(f"{word} at {', '.join(at)} labels" for word, at in groups.items()) or "not run"


def write_page() -> None:
    """Put the block between its markers, and the picture beside the page."""
    if CSV.exists():
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "few labels"}):
            write_whole(PICTURE, lambda path: draw(differences(pd.read_csv(CSV))).savefig(path, format="svg", metadata={"Date": None}))
    head, rest = PAGE.read_text().split(BEGIN, 1)
    PAGE.write_text(f"{head}{BEGIN}\n{block()}{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="train nothing")
    if not parser.parse_args().page:
        measure()
    write_page()
