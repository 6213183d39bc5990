"""Which student to ship: baseline and distilled side by side on the test images, their files, and the verdict, by rule."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from segkd.analysis.figures import pictures
from segkd.analysis.figures.chart import tell
from segkd.analysis.figures.style import keep, method_colour, styled, subplots
from segkd.export import Exported, export_run
from segkd.registry import UserError
from segkd.runs import Run
from segkd.study.lab import views
from segkd.study.lab.own_data import BASELINE, TABLE
from segkd.study.numbers.results import paired
from segkd.study.numbers.statistics import FEW, Estimate, bootstrap_interval, image_difference, image_miou, points, resampled_iou
from segkd.study.numbers.study import Study

FORMATS = ("onnx", "int8")


@dataclass(frozen=True)
class Help:
    """Distilled less baseline in points of mIoU: over the test images (all seeds together), over the seeds; and teacher less baseline."""

    method: str
    images: Estimate
    seeds: Estimate
    teacher: Estimate | None

    @property
    def real(self) -> bool:
        """The interval over the images lies above 0, and that over the seeds where there are several."""
        return self.images.low > 0 and (self.seeds.n < 2 or self.seeds.low > 0)

    def sentence(self) -> str:
        """The verdict."""
        found, n = self.images, self.images.n
        seeds = f"; over {self.seeds.n} seeds {self.seeds}" if self.seeds.n > 1 else "; one training of each, and another seed may say otherwise"
        if n < FEW:
            return f"Ship the baseline: {n} test images are too few to tell whether {self.method} helps ({points(found.mean)} points of mIoU)."
        if self.real:
            return f"Ship the student of {self.method}: it gains {found} points of mIoU on {n} test images{seeds}."
        if found.high < 0:
            return f"Ship the baseline: {self.method} does harm, {found} points of mIoU on {n} test images{seeds}."
        what = "the choice of test images" if not found.low > 0 else "chance between seeds"
        return f"Ship the baseline: the help of {self.method} is within {what}, {found} points of mIoU on {n} test images{seeds}."

    def premise(self) -> str:
        """Whether there was something to learn from the teacher, and what is not known."""
        floor = "How far rounding alone moves a score is not measured here; it is part of what several seeds show."
        if self.teacher is None:
            return f"{self.method} needs no teacher. {floor}"
        met = "so there is something to learn from it" if self.teacher.low > 0 else "so that it knows more is not shown: the premise is open"
        return f"Teacher less baseline on the test images: {self.teacher} points of mIoU, {met}. {floor}"


def _runs_of(study: Study, row: str) -> list[Run]:
    """The finished runs of a row; UserError if there are none."""
    views.first_run(study, TABLE, row)
    return study.runs(TABLE, row)


def counts(study: Study, row: str) -> np.ndarray:
    """(N, 3, C) of each test image, summed over the seeds of a row."""
    return np.sum([run.images() for run in _runs_of(study, row)], axis=0)


def help_of(study: Study) -> Help:
    """What the method did for this student."""
    _, method, *teacher = (row.label for row in study.rows(TABLE))
    scores = views.scores_by_seed(study, TABLE)
    base = counts(study, BASELINE)
    above = image_difference(counts(study, teacher[0]), base) if teacher else None
    return Help(method, image_difference(counts(study, method), base), paired(scores[method], scores[BASELINE]), above)


def shipped(study: Study) -> Run:
    """The run that the verdict names; of several seeds the best on val, as test is for measuring."""
    found = help_of(study)
    return max(_runs_of(study, found.method if found.real else BASELINE), key=lambda run: run.result["val_last"])


def write_files(studies: Sequence[Study], out: str = "") -> list[tuple[Study, Exported | None, str]]:
    """Export what is to be shipped of each study, as ONNX and int8, over what was there; an int8 that loses too much comes with that reason.

    ``out``: the folder (default: the run's). The first is ``student.onnx``, the others are called after their network.
    """
    found = []
    for place, study in enumerate(studies):
        run = shipped(study)
        folder = Path(out) if out else run.path
        name = study.profile.student.name.replace("/", "-") if place else "student"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as part:
            for format in FORMATS:
                path = folder / f"{name}{'' if format == 'onnx' else f'.{format}'}.onnx"
                try:
                    made = export_run(run, format, Path(part) / path.name)
                except UserError as error:
                    if format == FORMATS[0]:
                        raise
                    for old in (path, path.with_suffix(".md")):
                        old.unlink(missing_ok=True)
                    found.append((study, None, f"{format}: {error}"))
                    continue
                for suffix in (path.suffix, ".md"):
                    made.path.with_suffix(suffix).replace(path.with_suffix(suffix))
                found.append((study, replace(made, path=path), ""))
    return found


def files_table(files: list[tuple[Study, Exported | None, str]]) -> pd.DataFrame:
    """A line a file: network, what it is of, MiB, ms an image on one thread, mIoU of the run and what the file changes of it."""
    lines = [
        {
            "network": study.profile.student.name, "file": made.path.name, "of": shipped(study).config.method, "MiB": made.bytes / 2**20,
            "ms": 1e3 * made.seconds, "mIoU %": 100 * shipped(study).result["miou"],
            "file less run": 100 * (made.miou - made.run_miou), "on images": made.images,
        }
        for study, made, _ in files if made
    ]  # fmt: skip
    return pd.DataFrame(lines)


def side_by_side(studies: Sequence[Study]) -> pd.DataFrame:
    """A line a student: mIoU of baseline and distilled, their difference over the images and over the seeds, and image by image."""
    lines = []
    for study in studies:
        found, scores = help_of(study), views.scores_by_seed(study, TABLE).mean()
        gap = image_gaps(study)
        lines.append({
            "student": study.profile.student.name, "baseline %": scores[BASELINE], f"{found.method} %": scores[found.method],
            "difference over images": str(found.images), "over seeds": str(found.seeds) if found.seeds.n > 1 else "one seed",
            "better on images": int((gap > 0).sum()), "worse on": int((gap < 0).sum()), "ship": found.method if found.real else BASELINE,
        })  # fmt: skip
    return pd.DataFrame(lines)


def image_gaps(study: Study) -> np.ndarray:
    """Distilled less baseline in points of each test image's own mIoU, (N,); NaN: nothing labelled there."""
    return 100 * (image_miou(counts(study, study.rows(TABLE)[1].label)) - image_miou(counts(study, BASELINE)))


def classes_table(study: Study) -> pd.DataFrame:
    """A line a class: labelled test pixels and images that show it, IoU of both with the 95 % interval of their difference."""
    method = study.rows(TABLE)[1].label
    both = [counts(study, row) for row in (BASELINE, method)]
    with np.errstate(invalid="ignore"):
        base, ours = (100 * c.sum(0)[0] / (c.sum(0)[1] + c.sum(0)[2] - c.sum(0)[0]) for c in both)
    drawn = 100 * (resampled_iou(both[1]) - resampled_iou(both[0])) if len(both[0]) >= FEW else None
    labelled, seeds = both[0][:, 1], len(_runs_of(study, BASELINE))
    lines = []
    for place, name in enumerate(study.packed("train").classes):
        shown = int((labelled[:, place] > 0).sum())
        told = drawn is not None and shown >= FEW and np.isfinite(drawn[:, place]).any()
        low, high = bootstrap_interval(drawn[:, place]) if told else (np.nan, np.nan)
        gap = Estimate(shown, ours[place] - base[place], low, high, np.nan, np.nan)
        told = f"{points(gap.mean)} ({gap.interval})" if low == low else f"{points(gap.mean)} (too few images)" if gap.mean == gap.mean else ""
        lines.append({"class": name, "test pixels": int(labelled[:, place].sum()) // seeds, "images": shown, "baseline %": base[place], f"{method} %": ours[place], "difference": told})  # fmt: skip
    return pd.DataFrame(lines)


def worst(study: Study, count: int = 10) -> pd.DataFrame:
    """The test images on which the shipped run's own mIoU is lowest: index, name, mIoU %, and the class that lacks the most pixels."""
    found, test = shipped(study).images(), study.packed(study.data.split)
    miou = image_miou(found)
    order = [i for i in np.argsort(miou, kind="stable") if miou[i] == miou[i]][:count]
    missed = found[:, 1] - found[:, 0]
    return pd.DataFrame({
        "index": order, "image": [test.names[i] for i in order], "mIoU %": [100 * miou[i] for i in order],
        "most pixels missed of": [test.classes[int(missed[i].argmax())] for i in order],
    })  # fmt: skip


def worst_sheet(study: Study, found: pd.DataFrame):
    """These images with their labels, baseline and distilled."""
    images, labels, maps, palette, classes = views.predictions(study, TABLE, [BASELINE, study.rows(TABLE)[1].label], found["index"].tolist())
    return pictures.prediction_sheet(images, labels, maps, palette, classes)


@styled
def frontier(studies: Sequence[Study], files: list[tuple[Study, Exported | None, str]]):
    """mIoU against latency: baseline and distilled of each student as ONNX, int8 hollow, a dot as large as its file; teacher dashed."""
    figure, axes = subplots(figsize=(7.5, 4))
    dots = []
    for study, made, _ in files:
        if made is None:
            continue
        mine, onnx = shipped(study), made.format == "onnx"
        runs = [max(_runs_of(study, row.label), key=lambda r: r.result["val_last"]) for row in study.rows(TABLE)[:2]] if onnx else [mine]
        for run in runs:
            score, colour = run.result["miou"] + (0 if onnx else made.miou - made.run_miou), method_colour(run.config.method)
            look = {"color": colour, "lw": 0, "alpha": 0.8} if onnx else {"facecolor": "none", "edgecolor": colour}
            dot = {"student": study.profile.student.name, "format": made.format, "method": run.config.method, "ms": 1e3 * made.seconds, "mIoU %": 100 * score, "MiB": made.bytes / 2**20, "run": run.id}  # fmt: skip
            axes.scatter(dot["ms"], dot["mIoU %"], 30 + 12 * dot["MiB"], **look)
            dots.append(dot)
        axes.annotate(f"{study.profile.student.name} {made.format}", (1e3 * made.seconds, 100 * mine.result["miou"]), (8, -11), textcoords="offset points", fontsize=8)
    for row in studies[0].rows(TABLE):
        scores = [100 * run.result["miou"] for run in _runs_of(studies[0], row.label)]
        if row.role != "student":
            axes.axhline(np.mean(scores), color=method_colour("teacher"), ls="--", lw=1, label=row.label)
        else:
            axes.scatter([], [], color=method_colour(row.label), label=row.label)
    axes.set(xlabel="ms an image (one CPU thread, onnxruntime)", ylabel="mIoU (%)")
    axes.margins(0.2)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    words = ["{student} {format}, {method}: {ms:.1f} ms, {mIoU %:.1f} %, {MiB:.2f} MiB".format_map(dot) for dot in dots]
    marks = [(axes, dot["ms"], dot["ms"], dot["mIoU %"], dot["mIoU %"], f"{text}\n{dot['run']}") for dot, text in zip(dots, words)]
    best = max(range(len(dots)), key=lambda i: dots[i]["mIoU %"], default=None)
    said = "No file was written." if best is None else f"Highest: {words[best]}."
    return tell(figure, "Dots: mIoU over the time of an image", said, marks, keep("ship_frontier", pd.DataFrame(dots)).attrs.get("csv", ""))


@styled
def gap_figure(study: Study):
    """Distilled less baseline on each test image, from the one that loses most to the one that gains most."""
    names, gaps = np.array(study.packed(study.data.split).names), image_gaps(study)
    order = [i for i in np.argsort(gaps, kind="stable") if np.isfinite(gaps[i])]
    gap, bars = gaps[order], pd.DataFrame({"image": names[order], "points of mIoU": gaps[order]})
    figure, axes = subplots(figsize=(7.5, 2.6))
    axes.bar(range(len(gap)), gap, color=np.where(gap > 0, method_colour(study.rows(TABLE)[1].label), method_colour(BASELINE)), width=0.9)
    axes.axhline(0, color="#333333", lw=1)
    axes.set(xlabel="test images, sorted", ylabel="points of mIoU")
    marks = [(axes, x - 0.45, x + 0.45, *axes.get_ylim(), f"{name}: {points(value)}") for x, (name, value) in enumerate(zip(names[order], gap))]
    said = f"Better on {(gap > 0).sum()} of {len(gap)} images, worse on {(gap < 0).sum()}."
    return tell(figure, "Bars: distilled less baseline on each test image", said, marks, keep("ship_images", bars).attrs.get("csv", ""))
